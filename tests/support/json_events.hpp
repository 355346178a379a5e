#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/sources/json_plain.hpp>
#include <fsdpinit/sources/json_scan.hpp>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace fsdpinit::testing_support {

/// What a handler of JSON is told, as texts.
class json_recorder {
 public:
  void key(std::string& name) { events.push_back("key " + name); }
  void scalar(detail::json_scalar value) {
    events.push_back((value.text != nullptr     ? "text "
                      : value.number != nullptr ? "number "
                                                : "other ") +
                     value.shown());
  }
  void begin(bool object) { events.emplace_back(object ? "{" : "["); }
  void end(std::size_t depth) { events.push_back("end " + std::to_string(depth)); }

  std::vector<std::string> events;
};

/// The events that `read(events)` makes, the last of them the error it ends with, if any.
template <class Read>
[[nodiscard]] std::vector<std::string> events_of(Read&& read) {
  json_recorder recorder;
  detail::json_events events("file", "the text", recorder);
  try {
    read(events);
  } catch (const error& cause) {
    recorder.events.push_back(cause.text());
  }
  return recorder.events;
}

/// How the reader of plain JSON differs from nlohmann's; empty where it does not. `text` is UTF-8 without NUL and byte order mark.
[[nodiscard]] inline std::string difference_of_plain(std::string_view text) {
  bool whole = false;
  bool returned = false;
  const auto plain = events_of([&](auto& events) {
    whole = detail::read_plain_json(text, events);
    returned = true;
  });
  const auto all =
      events_of([&](auto& events) { nlohmann::json::sax_parse(text.data(), text.data() + text.size(), &events); });
  if (plain.size() > all.size()) {
    return "more events than there are";
  }
  for (std::size_t i = 0; i < plain.size(); ++i) {
    if (plain[i] != all[i]) {
      return "'" + plain[i] + "' where it is '" + all[i] + "'";
    }
  }
  return (whole || !returned) && plain.size() != all.size() ? "it stops before '" + all[plain.size()] + "'" : "";
}

}  // namespace fsdpinit::testing_support
