// What a writer does: rows of a source become partials in backend memory, and those one delta row of the
// writer's own transaction. A delta commits if and only if its rows do.
#pragma once

#include <functional>

#include "../core/fold.hpp"

namespace tick::pg {

void register_capture_callbacks();

// Shows what this transaction has folded for a program and not written yet. May throw.
void visit_unflushed(int64_t program, const std::function<void(const Fold&)>& visit);

}  // namespace tick::pg
