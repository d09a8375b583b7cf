// COPY into a source without a trigger for each row.
#pragma once

namespace tick::pg {

// Once, before other hooks of ours: they are called around it.
void watch_copies();

}  // namespace tick::pg
