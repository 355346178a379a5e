// expect: fsdpinit: this never happens
int main() { return 0; }
