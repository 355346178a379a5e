// expect: the text
#ifndef FSDPINIT_CONTROL
static_assert(false, "another text");
static_assert(false, "the text");
#endif
