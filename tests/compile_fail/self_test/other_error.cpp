// expect: fsdpinit: the message that a typo hides
int main() { return undeclared_name; }
