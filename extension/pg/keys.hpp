// tick.forget and tick.rename_key: what they do to a key's rows they also do to the state rows of rollups
// that group by it, whatever their age; nobody else is to do that again.
#pragma once

#include "pg.hpp"

namespace tick::pg {

// While one of them writes into this very state table.
bool is_rewriting(Oid state);

// While one of them changes rows that the capture has nothing to tell this program of.
bool is_spared(int64 program);

}  // namespace tick::pg
