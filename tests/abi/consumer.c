/* consumer.c - a C11 program against tent.h alone, moving bytes over a plugin that is not ours.
 *
 *   consumer move   two engines in this process, rail `tiny`: a write, a read back, bytes compared
 *   consumer open   opens one engine, prints "<status> <sentence>", ends with 0 in any case
 *   consumer grow   move, with structs shorter and longer than the library's
 *
 * Leans on the C library. The plugin is found through TENT_PLUGIN_PATH. Must never print a success
 * it did not see.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tent/plugin.h>
#include <tent/tent.h>

#define LENGTH 100000u
#define SECOND UINT64_C(1000000000)

static const char PLAN[] =
    "plan 1\n"
    "rail 0 tiny process\n"
    "route * : tiny[0]\n";

static int32_t check(int32_t status, const char *what) {
    if (status != TENT_OK) {
        fprintf(stderr, "%s: %s: %s\n", what, tent_status_name(status), tent_last_error());
        exit(1);
    }
    return status;
}

static tent_engine *open_engine(const char *name, uint32_t size) {
    tent_engine_options options;
    tent_engine *engine = NULL;
    memset(&options, 0, sizeof options);
    options.size = size;
    options.name = name;
    options.plan = PLAN;
    check(tent_engine_open(&options, &engine), "tent_engine_open");
    return engine;
}

/* A request of a program compiled against a later header: longer than the library knows. */
typedef struct future_request {
    tent_request request;
    uint64_t unknown;
} future_request;

static void transfer(tent_engine *engine, uint64_t segment, uint32_t op, void *local,
                     uint64_t remote, uint32_t stride) {
    future_request one;
    uint32_t index = 0;
    memset(&one, 0, sizeof one);
    one.unknown = UINT64_MAX;
    one.request.op = op;
    one.request.segment = segment;
    one.request.local = (uint64_t)(uintptr_t)local;
    one.request.remote = remote;
    one.request.length = LENGTH;
    check(tent_transfer(engine, NULL, &one.request, stride, 1, 10 * SECOND, &index),
          op == TENT_OP_WRITE ? "write" : "read");
}

static int move(uint32_t options_size, uint32_t stride) {
    static unsigned char source[LENGTH], target[LENGTH], back[LENGTH];
    tent_engine *initiator = open_engine("initiator", options_size);
    tent_engine *peer = open_engine("peer", options_size);
    uint64_t region = 0, peer_region = 0, segment = 0;
    char address[128];

    for (uint32_t i = 0; i < LENGTH; i++)
        source[i] = (unsigned char)(i * 7 + i / 251);
    check(tent_region_register(peer, target, LENGTH, NULL, &peer_region), "register target");
    check(tent_region_register(initiator, source, LENGTH, NULL, &region), "register source");
    check(tent_region_register(initiator, back, LENGTH, NULL, &region), "register back");
    check(tent_engine_address(peer, address, sizeof address), "tent_engine_address");
    check(tent_segment_open(initiator, address, 10 * SECOND, &segment), "tent_segment_open");
    transfer(initiator, segment, TENT_OP_WRITE, source, (uint64_t)(uintptr_t)target, stride);
    transfer(initiator, segment, TENT_OP_READ, back, (uint64_t)(uintptr_t)target, stride);
    if (memcmp(source, target, LENGTH) != 0 || memcmp(source, back, LENGTH) != 0) {
        fprintf(stderr, "the bytes that arrived are not those that were sent\n");
        return 1;
    }
    check(tent_engine_close(initiator), "close initiator");
    check(tent_engine_close(peer), "close peer");
    printf("moved %u bytes there and back\n", LENGTH);
    return 0;
}

static int open_only(void) {
    tent_engine_options options = {.size = sizeof options, .plan = PLAN};
    tent_engine *engine = NULL;
    int32_t status = tent_engine_open(&options, &engine);
    printf("%" PRId32 " %s\n", status, status == TENT_OK ? "" : tent_last_error());
    return tent_engine_close(engine) == TENT_OK ? 0 : 1;
}

int main(int argc, char **argv) {
    const char *what = argc == 2 ? argv[1] : "";
    if (strcmp(what, "move") == 0) return move(sizeof(tent_engine_options), sizeof(tent_request));
    if (strcmp(what, "grow") == 0)
        return move((uint32_t)offsetof(tent_engine_options, plugin_path), sizeof(future_request));
    if (strcmp(what, "open") == 0) return open_only();
    fprintf(stderr, "usage: consumer move|grow|open\n");
    return 2;
}
