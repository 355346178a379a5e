// expect: fsdpinit: the value must be even
template <int Value>
struct even {
  static_assert(Value % 2 == 0, "fsdpinit: the value must be even");
};

#ifdef FSDPINIT_CONTROL
template struct even<2>;
#else
template struct even<3>;
#endif
