// expect: the text
#ifndef FSDPINIT_CONTROL
static_assert(false, "the text");
static_assert(false, "2");
static_assert(false, "3");
static_assert(false, "4");
static_assert(false, "5");
static_assert(false, "6");
static_assert(false, "7");
static_assert(false, "8");
static_assert(false, "9");
#endif
