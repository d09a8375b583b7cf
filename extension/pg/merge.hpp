// One turn of the worker = one transaction: new deltas are read, coalesced, fanned out and merged into the
// state tables, or windows are recomputed from the source; frontier and watermark move with them. A turn
// keeps nothing that matters: whatever is cached is checked against the catalogs' generation.
#pragma once

#include <functional>
#include <memory>
#include <set>

#include "changes.hpp"
#include "late.hpp"
#include "notify.hpp"
#include "rollup.hpp"
#include "state.hpp"
#include "watermark.hpp"
#include "windows.hpp"

namespace tick::pg {

struct TurnResult {
  bool rollups = false;             // the database has any
  bool changed = false;             // something was merged or recomputed
  bool restored = false;            // what a dump brought has to be taken up first
  bool computed = false;            // there are rollups that are recomputed
  bool touched = false;             // and this turn has touched rows of one
  bool more = false;                // a bounded turn, or history left to recompute: come again at once
  TimestampTz due = plus_infinity;  // come again then though nothing has arrived
  int64_t deltas = 0;               // taken in
  int64_t rows = 0;                 // that they were folded from
};

class Merger {
 public:
  Merger();
  ~Merger();
  Merger(const Merger&) = delete;

  // Runs one turn; must be called outside a transaction. Errors of one rollup set that rollup aside; whatever
  // else goes wrong is thrown (PgError, Error) with the transaction aborted, and the turn can simply be run
  // again.
  // `since`: when the first commit came that had not been taken up, 0 = none has been noticed. `held`: an old
  // snapshot keeps all versions of rows.
  TurnResult turn(TimestampTz since, bool held);

 private:
  struct Turn;
  TurnResult attempt(TimestampTz since);
  void load(Turn& turn);
  void consume(Turn& turn);
  const Evaluator* find_program(Turn& turn, int64_t program);
  void plan_recompute(Turn& turn);
  void merge_deltas(Turn& turn);
  void recompute(Turn& turn);
  void settle_watermarks(Turn& turn);
  const Range* next_fresh(const Rollup& rollup) const;
  static bool overlaps_fresh(const Rollup& rollup, const Range& range);
  bool is_due(const Rollup& rollup) const;
  void lock_out(Oid source);
  bool leave_to_helper(Turn& turn);
  bool merge_pieces(Turn& turn);
  void become_live(Rollup& rollup);
  void end_filling(const Turn& turn, Rollup& rollup);
  TurnTime time(const Turn& turn, Oid source);
  void note_change(Turn& turn, const Rollup& rollup, const Fold& fold, bool recomputed);
  void note_gone(Turn& turn, const Rollup& rollup, bool recomputed);
  // Rollups over rollups, in follow.cpp. Keys: of the parent, by its own.
  struct Followed;
  using KeySets = std::vector<std::set<std::string>>;
  void lead_followers(Turn& turn, const Rollup& parent, const Fold& fold, bool recomputed);
  void lead_followers(Turn& turn, const Rollup& parent, Micros window, const KeySets& keys, bool recomputed);
  bool follow(Turn& turn);
  bool follow_pending(Turn& turn, Rollup& rollup);
  void follow_touched(Turn& turn, Rollup& rollup);
  void follow_ended(Turn& turn, Rollup& rollup);
  void make_windows(Turn& turn, const Rollup& rollup, Micros lo, Micros hi, const Followed& scope);
  TimestampTz resting_until(const Rollup& rollup) const;
  bool waits(const Rollup& rollup, Micros window) const;
  struct Verdict {
    std::optional<Micros> window;    // where a slot of a delta belongs; none = nowhere in this turn
    std::optional<Refusal> refusal;  // it is listed instead
    bool corrects_frozen = false;    // rows have left a frozen window: it is recomputed
  };
  Verdict judge(const Rollup& rollup, const Fold& from, size_t slot, std::optional<Micros> window) const;
  void mark_dirty(Rollup& rollup, const std::set<Micros>& windows, bool replace = false, bool marked = false);
  void note_missed(Turn& turn, Rollup& rollup);
  void give_up_missed(Turn& turn, const Rollup& rollup, Micros covered);
  void shorten_pending(Rollup& rollup, const Range& range, Micros lo);
  void set_aside_failures(Turn& turn);
  void set_aside_in_turn(Turn& turn, Rollup& rollup, const std::string& reason);
  void set_aside(int rollup, const std::string& reason);
  bool is_stuck(int rollup, int sqlstate);
  void move_watermarks(Turn& turn);
  void move_frontier(Turn& turn);
  void tell(Turn& turn);
  TimestampTz next_due() const;

  pg_uuid_t epoch_{};  // of the frontier that generation_ belongs to
  int64_t generation_ = 0;
  Watermarks watermarks_;
  OpenWindows windows_;
  ItemPointerData frontier_place_{}, generation_place_{};
  ChangeLog log_;
  bool held_ = false;           // an old snapshot keeps all versions of rows
  std::vector<GoneRow> gone_;   // of the rollup at work
  std::string token_;           // of the newest turn that has changed something
  TimestampTz tell_after_ = 0;  // telling has failed: not before
  TimestampTz failure_told_ = 0;
  bool was_cut_ = false;  // the turn before left deltas behind
  std::vector<Rollup> rollups_;
  // Of rollups that are recomputed, by the end of the last turn: windows that have ended and wait for that.
  std::map<int, std::set<Micros>> waiting_;
  bool dedup_ = false;  // some source has it
  int last_recomputed_ = 0;
  int last_pieces_ = 0;  // rollup whose history was merged last
  // Sources whose leaves somebody holds: not before `until`, then with growing patience.
  struct Lockout {
    TimestampTz until = 0, rest = 0;
  };
  std::map<Oid, Lockout> locked_out_;
  std::map<int, int> passing_failures_;  // one after another, of rollups that could not be written
  std::set<int> named_again_;            // rollups that failed by a name, which may just have changed
  std::map<int, TimestampTz> resting_;   // of rollups that follow others: not before, as it takes long
  bool newest_followed_ = false;
  std::set<int> awaiting_helper_;  // rollups whose history is too long for a turn
  TimestampTz helper_asked_at_ = 0, no_helper_until_ = 0;
  std::set<int64_t> lost_;                          // scans that ended without having found anything
  std::map<int, int> attempts_;                     // of scans for a rollup, beyond the first
  std::map<int64_t, std::string> broken_programs_;  // that cannot be read any more, and why
  int current_ = 0;                                 // the rollup whose work may fail now, 0 = none
};

}  // namespace tick::pg
