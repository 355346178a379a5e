// expect: the text
#ifndef FSDPINIT_CONTROL
template <int N>
void one() {
  static_assert(N < 0, "the text");
}
template <int... Ns>
void all() {
  (one<Ns>(), ...);
}
template void all<0, 1, 2, 3, 4, 5, 6, 7, 8>();
#endif
