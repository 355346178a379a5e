#include <cstdio>

unsigned long load_compiled();
unsigned long load_header_only();

int main() { std::printf("header-only: %lu bytes, compiled: %lu bytes\n", load_header_only(), load_compiled()); }
