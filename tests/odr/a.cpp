// Includes every header, as b.cpp does: what a header defines without `inline` is defined twice and does not link.
#include "every_header.hpp"

int second_translation_unit();

int main() { return second_translation_unit(); }
