/* fault.h - the C interface of the fault decorator, exported beside its query.
 *
 * For tests that sweep: run a scenario once, ask how many operations it had, then fail one after
 * the other. C11; leans on <stdint.h> only, a program takes the functions by dlsym. The figures are
 * those of the whole process, of all instances together, since it began: take differences. Any
 * thread may call.
 */
#ifndef TENT_FAULT_H
#define TENT_FAULT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef TENT_API
#define TENT_API __attribute__((visibility("default")))
#endif

/* The names of failures, as options use them, first those that are operations as well; NULL beyond
 * the last. Static storage. */
TENT_API const char *tent_fault_name(uint32_t index);
/* How many operations of a name ("post"; "any": of all) decorated transports were asked for. Of a
 * failure that is no operation ("drop"): of the operation it befalls. 0 for an unknown name. */
TENT_API uint64_t tent_fault_operations(const char *name);
/* How many of them were made to fail, in any way. */
TENT_API uint64_t tent_fault_strikes(const char *name);

#ifdef __cplusplus
}
#endif
#endif
