#pragma once

#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/transport.hpp>

#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace fsdpinit {

/// Any function that says how to load: scatter, broadcast, own_read, or automatic, which is by the size of chunks. It is given all
/// tensors, and the plan's options but for the transport. What std::function would be, but `<functional>` is a tenth of what
/// fsdpinit.hpp takes to include.
class transport_choice {
 public:
  transport_choice() = default;
  template <class Choose>
    requires std::is_invocable_r_v<transport_kind, const Choose&, const std::vector<tensor_request>&,
                                   const plan_options&>
  transport_choice(Choose choose)  // NOLINT(google-explicit-constructor): a function is a choice
      : function_(std::make_shared<const stored<Choose>>(std::move(choose))) {}

  [[nodiscard]] explicit operator bool() const noexcept { return function_ != nullptr; }
  /// \pre there is one. \throws what it throws.
  [[nodiscard]] transport_kind operator()(const std::vector<tensor_request>& requests,
                                          const plan_options& options) const {
    return function_->call(requests, options);
  }

 private:
  struct erased {
    erased() = default;
    erased(const erased&) = delete;
    erased& operator=(const erased&) = delete;
    virtual ~erased() = default;
    [[nodiscard]] virtual transport_kind call(const std::vector<tensor_request>& requests,
                                              const plan_options& options) const = 0;
  };
  template <class Choose>
  struct stored final : erased {
    explicit stored(Choose given) : choose(std::move(given)) {}
    [[nodiscard]] transport_kind call(const std::vector<tensor_request>& requests,
                                      const plan_options& options) const override {
      return choose(requests, options);
    }
    Choose choose;
  };

  std::shared_ptr<const erased> function_;
};

}  // namespace fsdpinit
