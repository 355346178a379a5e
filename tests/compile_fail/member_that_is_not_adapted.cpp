// expect: fsdpinit: a member of a module is of a class T that is no slot, module, or container of these
// expect: feed_forward_block
#include <fsdpinit/fsdpinit.hpp>

#include <boost/hana/adapt_struct.hpp>

#include <vector>

struct feed_forward_block {
  fsdpinit::parameter weight;
};
struct decoder {
  std::vector<feed_forward_block> blocks;
  fsdpinit::parameter norm;
};
#ifdef FSDPINIT_CONTROL
BOOST_HANA_ADAPT_STRUCT(feed_forward_block, weight);
#endif
BOOST_HANA_ADAPT_STRUCT(decoder, blocks, norm);

void call(decoder& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links);
}
