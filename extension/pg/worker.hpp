// The launcher and the worker of a database: when they start, sleep, back off and end.
#pragma once

namespace tick::pg {

void register_launcher();

}  // namespace tick::pg
