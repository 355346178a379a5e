#pragma once

#include <fsdpinit/core/error.hpp>

#include <gtest/gtest.h>

#include <exception>
#include <optional>
#include <string>
#include <string_view>

namespace fsdpinit::testing_support {

/// The error that `call` throws; a test failure and nothing where it throws none, or something else.
template <class Call>
[[nodiscard]] std::optional<error> thrown_by(Call call) {
  try {
    call();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const error& caught) {
    return caught;
  } catch (const std::exception& caught) {
    ADD_FAILURE() << "not fsdpinit::error but: " << caught.what();
  }
  return std::nullopt;
}

/// `call` throws an error with that code and subject whose text has `piece` in it and is one line.
template <class Call>
void expect_error(errc code, std::string_view subject, std::string_view piece, Call call) {
  const auto caught = thrown_by(call);
  if (!caught) {
    return;
  }
  const std::string what = caught->what();
  EXPECT_EQ(name(caught->code()), name(code)) << what;
  EXPECT_EQ(caught->subject(), subject) << what;
  EXPECT_NE(caught->text().find(piece), std::string::npos) << "no \"" << piece << "\" in: " << what;
  EXPECT_EQ(what.find('\n'), std::string::npos) << what;
}

}  // namespace fsdpinit::testing_support
