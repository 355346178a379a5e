#pragma once

#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/concepts/module_ref.hpp>
#include <fsdpinit/core/compiler.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/init/extras.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/policies.hpp>
#include <fsdpinit/init/pretrained_context.hpp>
#include <fsdpinit/init/source_in_use.hpp>
#include <fsdpinit/observe/report.hpp>

/// \file
/// The way from templates to ordinary code. `initialize` and `load_pretrained` check the types that they were given, and take them off;
/// what stands here works with references, is compiled once, and does everything else.

namespace fsdpinit {
class step_tap;
}  // namespace fsdpinit

namespace fsdpinit::detail {

/// What `initialize` was given, without its types.
struct initialization_arguments {
  typed_policy policy;  ///< `options::policy` may say another
  module_ref module;
  source_in_use* source;  ///< nullptr: the module's own state
  payload_link& data;
  control_ref control;
  const fsdpinit::options& options;
  const extras& more;
  step_tap* tap = nullptr;  ///< see `program_options`
};

/// Collective. \throws the same error on every rank
FSDPINIT_INLINE rank_report run_initialization(const initialization_arguments& given);

/// What `load_pretrained` was given, without its types.
struct pretrained_arguments {
  module_ref module;
  source_in_use& source;
  payload_link& data;
  control_ref control;
  const pretrained_load_context& context;
  const pretrained_load_options& options;
  const pretrained_extras& more;
  step_tap* tap = nullptr;
};

/// Collective. \throws the same error on every rank
FSDPINIT_INLINE pretrained_report run_pretrained_load(const pretrained_arguments& given);

}  // namespace fsdpinit::detail
