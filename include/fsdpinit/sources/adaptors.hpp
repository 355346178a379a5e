#pragma once

/// \file
/// State dicts seen through others: `checkpoint{path} | renamed("model.", "") | cast(dtype::bf16)`. What `|` takes and
/// who owns what: sources/pipe.hpp. Not in fsdpinit.hpp, which every module includes, for what it costs to compile.

#include <fsdpinit/sources/cast.hpp>
#include <fsdpinit/sources/converted.hpp>
#include <fsdpinit/sources/filtered.hpp>
#include <fsdpinit/sources/merged.hpp>
#include <fsdpinit/sources/pipe.hpp>
#include <fsdpinit/sources/renamed.hpp>
