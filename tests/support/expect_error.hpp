#pragma once

#include <fsdpinit/core/error.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <span>
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

/// All ranks threw this one error.
inline void expect_same_error(std::span<const std::optional<error>> errors, errc code, std::string_view subject,
                              std::int32_t rank, std::string_view piece) {
  for (std::size_t r = 0; r < errors.size(); ++r) {
    ASSERT_TRUE(errors[r].has_value()) << "rank " << r << " threw nothing";
    const error& got = *errors[r];
    EXPECT_EQ(name(got.code()), name(code)) << got.what();
    EXPECT_EQ(got.subject(), subject) << got.what();
    EXPECT_EQ(got.rank(), rank) << got.what();
    EXPECT_NE(got.text().find(piece), std::string::npos) << "no '" << piece << "' in: " << got.what();
    EXPECT_STREQ(got.what(), errors[0]->what()) << "rank " << r;
  }
}

}  // namespace fsdpinit::testing_support
