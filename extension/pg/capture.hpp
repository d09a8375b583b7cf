// What a writer does: rows of a source become partials in backend memory, and those one delta row of the
// writer's own transaction. A delta commits if and only if its rows do.
#pragma once

namespace tick::pg {

void register_capture_callbacks();

}  // namespace tick::pg
