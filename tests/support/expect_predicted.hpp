#pragma once

#include <fsdpinit/observe/report.hpp>

#include <gtest/gtest.h>

namespace fsdpinit::testing_support {

/// A rank did what was predicted of it, to the byte.
inline void expect_as_predicted(const rank_report& report) {
  EXPECT_EQ(report.predicted.bytes_read, report.bytes_read) << "rank " << report.rank;
  EXPECT_EQ(report.predicted.bytes_sent, report.bytes_sent) << "rank " << report.rank;
  EXPECT_EQ(report.predicted.bytes_received, report.bytes_received) << "rank " << report.rank;
  EXPECT_EQ(report.accounted_peak_bytes, report.predicted.peak_bytes()) << "rank " << report.rank;
}

}  // namespace fsdpinit::testing_support
