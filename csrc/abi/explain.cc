// tent_explain: checks the query and hands it to core. See tent.h.
#include "abi/guard.h"
#include "base/status.h"

TENT_API int32_t tent_explain(tent_engine *, const tent_explain_query *, tent_explanation *,
                              tent_candidate *, uint32_t, uint32_t *) {
    return tent::fail(TENT_E_UNSUPPORTED, "explain is not built yet");
}
