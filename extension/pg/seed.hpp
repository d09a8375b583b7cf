// tick.seed writes into a state table, which is otherwise its worker's alone.
#pragma once

#include "pg.hpp"

namespace tick::pg {

// While tick.seed writes into this very table.
bool is_seeding(Oid state);

}  // namespace tick::pg
