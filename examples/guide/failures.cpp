// What goes wrong on one rank, on all of them: a name that the checkpoint does not have, memory, a rank that never comes, and a
// stop.
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/testing/faults.hpp>

#include <cstddef>
#include <cstdio>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t ranks = 3;

/// Runs one rank per thread. \return what each has to say.
template <class Rank>
std::vector<std::string> run(Rank&& rank) {
  const fsdpinit::threads_world world(ranks);
  std::vector<std::string> said(ranks);
  std::vector<std::jthread> threads;
  for (std::size_t each = 0; each < ranks; ++each) {
    threads.emplace_back([&, each] { said[each] = rank(world.rank(each)); });
  }
  threads.clear();
  return said;
}

fsdpinit::dynamic_module make_model() {
  fsdpinit::dynamic_module net;
  net.add_parameter("layers.0.up", fsdpinit::dtype::f32, {8, 4});
  return net;
}

const std::vector<float> numbers(32, 1.0F);

fsdpinit::in_memory_source checkpoint_with(const std::string& name) {
  return fsdpinit::in_memory_source({{.descriptor = {.name = name, .dtype = fsdpinit::dtype::f32, .shape = {8, 4}},
                                      .bytes = std::as_bytes(std::span(numbers))}});
}

}  // namespace

int main() {
  const auto missing = run([](fsdpinit::threads_communicator world) -> std::string {
    fsdpinit::dynamic_module net = make_model();
    const fsdpinit::in_memory_source other = checkpoint_with("model.layers.0.up");
    const fsdpinit::in_memory_source checkpoint = checkpoint_with("layers.0.up");
    // [agreed]
    try {
      fsdpinit::initialize(net, other, world);
    } catch (const fsdpinit::error& failure) {  // the same one on every rank: each may decide by itself, and all alike
      if (failure.code() != fsdpinit::errc::missing_tensor && failure.code() != fsdpinit::errc::unexpected_tensor) {
        throw;
      }
      fsdpinit::initialize(net, checkpoint, world);  // nothing had been changed
    }
    // [agreed]
    return net.get_parameter("layers.0.up").is_meta() ? "on meta" : "loaded";
  });

  // Rank 2 alone runs out of memory, at its first allocation.
  const auto exhausted = run([](fsdpinit::threads_communicator world) -> std::string {
    const fsdpinit::testing::call_counter counter;
    if (world.rank() == 2) {
      counter.fail_at(0);
    }
    fsdpinit::dynamic_module net = make_model();
    fsdpinit::testing::faulty_memory<fsdpinit::host_memory> memory(fsdpinit::host_memory(), counter);
    const fsdpinit::in_memory_source checkpoint = checkpoint_with("layers.0.up");
    try {
      fsdpinit::initialize(net, checkpoint, world, {}, {.memory = memory});
      return "nothing happened";
    } catch (const fsdpinit::error& failure) {
      return failure.what();
    }
  });

  // Rank 2 does not come at all.
  const auto lost = run([](fsdpinit::threads_communicator world) -> std::string {
    if (world.rank() == 2) {
      return {};
    }
    fsdpinit::dynamic_module net = make_model();
    const fsdpinit::in_memory_source checkpoint = checkpoint_with("layers.0.up");
    // [lost]
    try {
      fsdpinit::initialize(net, checkpoint, world, {.deadline_seconds = 0.5});
    } catch (const fsdpinit::error& failure) {
      if (failure.code() == fsdpinit::errc::peer_lost) {
        return failure.what();  // a rank is gone: end this process, and start the job again
      }
      throw;
    }
    // [lost]
    return "nothing happened";
  });

  // Rank 1 is asked to stop: as soon as it looks, all of them do.
  const auto stopped = run([](fsdpinit::threads_communicator world) -> std::string {
    fsdpinit::dynamic_module net = make_model();
    const fsdpinit::in_memory_source checkpoint = checkpoint_with("layers.0.up");
    std::stop_source quit;
    if (world.rank() == 1) {
      quit.request_stop();  // from any thread, at any time
    }
    // [stopped]
    const std::stop_token stop = quit.get_token();  // or anything with `bool stop_requested() const`
    try {
      fsdpinit::initialize(net, checkpoint, world, {}, {.stop = stop});
    } catch (const fsdpinit::error& failure) {
      if (failure.code() == fsdpinit::errc::cancelled) {
        return failure.what();  // on every rank; the same call may be made again
      }
      throw;
    }
    // [stopped]
    return "nothing happened";
  });

  bool alike = true;
  const auto show = [&](const char* what, const std::vector<std::string>& said, std::size_t count) {
    for (std::size_t rank = 0; rank < count; ++rank) {
      alike = alike && said[rank] == said[0];
    }
    std::printf("%s: %s\n", what, said[0].c_str());
  };
  show("missing", missing, ranks);
  show("memory", exhausted, ranks);
  show("lost", lost, 2);
  show("stopped", stopped, ranks);
  return alike && missing[0] == "loaded" ? 0 : 1;
}
