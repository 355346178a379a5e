#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/engine/payload_channel.hpp>
#include <fsdpinit/engine/payload_link.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace fsdpinit::detail {

/// Operations that all ranks carry out together or fail together.
template <Communicator Data>
class lockstep {
 public:
  lockstep(Data& data, control_ref control, double deadline_seconds) noexcept
      : data_(data), link_(data), control_(control), seconds_(deadline_seconds) {}

  [[nodiscard]] Data& data() const noexcept { return data_; }
  [[nodiscard]] const payload_link& link() const noexcept { return link_; }
  [[nodiscard]] control_ref control() const noexcept { return control_; }
  [[nodiscard]] deadline limit() const noexcept { return deadline::after(seconds_); }

  /// A step that may fail on one rank alone.
  template <class Step>
  void agreed(Step&& step) const {
    fsdpinit::agreed(control_, seconds_, std::forward<Step>(step));
  }

  /// What throws within throws on every rank; then the communicator works again.
  template <class Fn>
  void all_or_nothing(Fn&& fn) {
    over(link_, nullptr, std::forward<Fn>(fn));
  }

  /// `prepare`, then `move`, which communicates with what `buffers` own. Ranks that ask for different things at a time would
  /// mix up bytes of equal number: `call` stands for what is asked for, and `describe(call)` names it in the error.
  template <class Describe, class Prepare, class Move, class... Buffers>
  void together(std::uint64_t call, Describe&& describe, Prepare&& prepare, Move&& move, Buffers&... buffers) {
    all_or_nothing([&] {
      const std::uint64_t most = all_reduce_max(control_, call, limit());
      agreed([&] {
        if (most != call) {
          throw error(errc::disagreement, "",
                      concat("this rank asked for ", describe(call), " where another asks for ", describe(most),
                             "; call every rank with the same unit and operation, in the same order"));
        }
        own_step(prepare);
      });
      agreed([&] {
        try {
          move();
        } catch (...) {
          link_.interrupt();
          retain_if_lost(link_, buffers...);
          throw;
        }
      });
    });
  }

 private:
  Data& data_;
  payload_link_of<Data> link_;
  control_ref control_;
  double seconds_;
};

}  // namespace fsdpinit::detail
