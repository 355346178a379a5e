#include <fsdpinit/fsdpinit.hpp>

#include <cstdio>

int main() { std::printf("6 over 4: the last from %d\n", static_cast<int>(fsdpinit::chunk_of(6, 4, 3).offset)); }
