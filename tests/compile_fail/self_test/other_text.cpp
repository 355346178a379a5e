// expect: static assertion failed
// expect: another text
static_assert(sizeof(int) == 0, "a text");
