/* main.c - TENT from C alone: a saved plan, two engines, bytes written and read back, no Python.
 *
 *   main [plan.txt]                  both ends in this process
 *   main serve [plan.txt]            the passive end: prints its address, serves until stdin ends
 *   main send HOST:PORT [plan.txt]   the active end, against a serving one
 *
 * Build with CMake (CMakeLists.txt beside this) or in one line:
 *   cc main.c $(tent config --cflags --libs) -o main
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <tent/tent.h>

#define BLOCK_SIZE UINT64_C(1048576)
#define BLOCK_COUNT 16u
#define LENGTH (BLOCK_SIZE * BLOCK_COUNT)
#define TIMEOUT_NS UINT64_C(10000000000)

static void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, tent_last_error());
    exit(1);
}

/* Every call that can fail returns 0 or a negative status; the sentence says what to do. */
static void check(int32_t status, const char *what) {
    if (status != TENT_OK) {
        fprintf(stderr, "%s ended with %s\n", what, tent_status_name(status));
        die(what);
    }
}

static char *read_text(const char *path) {
    static char text[65536];
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    size_t size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[size] = '\0';
    return text;
}

static tent_engine *open_engine(const char *name, const char *plan_path) {
    tent_engine_options options = {.size = sizeof options, .name = name};
    tent_engine *engine = NULL;
    options.plan = read_text(plan_path);
    check(tent_engine_open(&options, &engine), "tent_engine_open");
    return engine;
}

/* Memory that the other end may read and write. Returns its address. */
static unsigned char *make_region(tent_engine *engine, const char *label, uint64_t *region) {
    void *memory = NULL;
    tent_region_options options = {
        .size = sizeof options,
        .access = TENT_ACCESS_READ | TENT_ACCESS_WRITE,
        .label = label,
    };
    check(tent_memory_alloc(engine, LENGTH, &memory), "tent_memory_alloc");
    check(tent_region_register(engine, memory, LENGTH, &options, region), "tent_region_register");
    return memory;
}

/* One request per block, all in one batch. */
static void move_blocks(tent_engine *engine, uint64_t segment, uint32_t op, unsigned char *local,
                        uint64_t remote) {
    tent_request requests[BLOCK_COUNT];
    uint64_t batch = 0;
    uint32_t index = 0;
    memset(requests, 0, sizeof requests);
    for (uint32_t i = 0; i < BLOCK_COUNT; i++) {
        requests[i].op = op;
        requests[i].segment = segment;
        requests[i].local = (uint64_t)(uintptr_t)local + i * BLOCK_SIZE;
        requests[i].remote = remote + i * BLOCK_SIZE;
        requests[i].length = BLOCK_SIZE;
        requests[i].user_data = i;
    }
    check(tent_batch_open(engine, NULL, &batch), "tent_batch_open");
    uint64_t begin_ns = tent_now_ns();
    check(tent_batch_submit(engine, batch, requests, sizeof requests[0], BLOCK_COUNT,
                            TENT_SUBMIT_SEAL, &index),
          "tent_batch_submit");
    check(tent_batch_wait(engine, batch, TIMEOUT_NS), "tent_batch_wait");
    double seconds = (double)(tent_now_ns() - begin_ns) / 1e9;
    check(tent_batch_close(engine, batch), "tent_batch_close");
    printf("%s %" PRIu64 " bytes in %u requests: %.2f GB/s\n",
           op == TENT_OP_WRITE ? "wrote" : "read", LENGTH, BLOCK_COUNT,
           (double)LENGTH / seconds / 1e9);
}

/* The address of the peer's region of that label. */
static uint64_t find_region(tent_engine *engine, uint64_t segment, const char *label) {
    tent_region_info regions[16];
    uint32_t count = 16;
    check(tent_segment_regions(engine, segment, regions, sizeof regions[0], &count),
          "tent_segment_regions");
    for (uint32_t i = 0; i < count && i < 16; i++) {
        if (strcmp(regions[i].label, label) == 0 && regions[i].length >= LENGTH)
            return regions[i].address;
    }
    fprintf(stderr, "the peer grants no region labelled \"%s\" of %" PRIu64 " bytes\n", label,
            LENGTH);
    exit(1);
}

static int send_to(const char *address, const char *plan_path) {
    tent_engine *engine = open_engine("c-send", plan_path);
    uint64_t source_region = 0, back_region = 0, segment = 0;
    unsigned char *source = make_region(engine, "source", &source_region);
    unsigned char *back = make_region(engine, "back", &back_region);
    for (uint64_t i = 0; i < LENGTH; i++)
        source[i] = (unsigned char)(i * 31 + i / 4093);

    check(tent_segment_open(engine, address, TIMEOUT_NS, &segment), "tent_segment_open");
    uint64_t target = find_region(engine, segment, "target");
    move_blocks(engine, segment, TENT_OP_WRITE, source, target);
    move_blocks(engine, segment, TENT_OP_READ, back, target);
    int equal = memcmp(source, back, LENGTH) == 0;
    puts(equal ? "verified: what came back is what was sent" : "WRONG: the bytes differ");

    check(tent_segment_close(engine, segment), "tent_segment_close");
    check(tent_region_release(engine, source_region), "tent_region_release");
    check(tent_region_release(engine, back_region), "tent_region_release");
    check(tent_memory_free(engine, source), "tent_memory_free");
    check(tent_memory_free(engine, back), "tent_memory_free");
    check(tent_engine_close(engine), "tent_engine_close");
    return equal ? 0 : 1;
}

static tent_engine *open_server(const char *plan_path, char *address, uint64_t address_size) {
    tent_engine *engine = open_engine("c-serve", plan_path);
    uint64_t region = 0;
    make_region(engine, "target", &region);
    check(tent_engine_address(engine, address, address_size), "tent_engine_address");
    return engine;
}

static int serve(const char *plan_path) {
    char address[128], byte;
    tent_engine *engine = open_server(plan_path, address, sizeof address);
    printf("serving at %s\n", address);
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    check(tent_engine_close(engine), "tent_engine_close");
    return 0;
}

static int both(const char *plan_path) {
    char address[128];
    tent_engine *engine = open_server(plan_path, address, sizeof address);
    printf("tent %s, peer at %s\n", tent_version(), address);
    int result = send_to(address, plan_path);
    check(tent_engine_close(engine), "tent_engine_close");
    return result;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "serve") == 0 && argc <= 3) return serve(argc > 2 ? argv[2] : "plan.txt");
    if (strcmp(what, "send") == 0 && (argc == 3 || argc == 4))
        return send_to(argv[2], argc > 3 ? argv[3] : "plan.txt");
    if (argc <= 2) return both(argc > 1 ? what : "plan.txt");
    fprintf(stderr, "usage: main [plan.txt] | serve [plan.txt] | send HOST:PORT [plan.txt]\n");
    return 2;
}
