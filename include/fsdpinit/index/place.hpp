#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/index/strided_map.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/// \file
/// Copies elements as a map says: nothing indirect per element, and no memory but a few kilobytes of stack.

namespace fsdpinit::index_map {

namespace detail {

/// Copies rows x columns words of a constant size. Strides are in bytes.
template <std::size_t Word>
void place_words(const std::byte* source, std::byte* destination, const factor& rows, const factor& columns) noexcept {
  for (std::uint64_t row = 0; row < rows.extent; ++row, source += rows.from, destination += rows.to) {
    const std::byte* from = source;
    std::byte* to = destination;
    for (std::uint64_t column = 0; column < columns.extent; ++column, from += columns.from, to += columns.to) {
      std::memcpy(to, from, Word);
    }
  }
}

#ifdef __SSE2__

/// The words of two vectors in turns: those of the lower halves, or of the upper ones.
template <std::size_t Word, bool Upper>
[[nodiscard]] inline __m128i interleaved(__m128i a, __m128i b) noexcept {
  if constexpr (Word == 1) {
    return Upper ? _mm_unpackhi_epi8(a, b) : _mm_unpacklo_epi8(a, b);
  } else if constexpr (Word == 2) {
    return Upper ? _mm_unpackhi_epi16(a, b) : _mm_unpacklo_epi16(a, b);
  } else if constexpr (Word == 4) {
    return Upper ? _mm_unpackhi_epi32(a, b) : _mm_unpacklo_epi32(a, b);
  } else {
    return Upper ? _mm_unpackhi_epi64(a, b) : _mm_unpacklo_epi64(a, b);
  }
}

/// So many words of a row, loaded, transposed in a square and stored.
template <std::size_t Word>
struct word_square {
  static constexpr std::size_t side = 16 / Word;

  static void transpose(const std::byte* source, std::uint64_t from, std::byte* destination,
                        std::uint64_t to) noexcept {
    __m128i rows[side];  // NOLINT(*-avoid-c-arrays): as a template argument the type loses its alignment
    for (std::size_t i = 0; i < side; ++i) {
      std::memcpy(&rows[i], source + i * from, sizeof rows[i]);
    }
    // A row's number moves from that of the vector to that within it, bit by bit.
    for (std::size_t done = 1; done < side; done *= 2) {
      __m128i mixed[side];  // NOLINT(*-avoid-c-arrays)
      for (std::size_t i = 0; i < side / 2; ++i) {
        mixed[2 * i] = interleaved<Word, false>(rows[i], rows[i + side / 2]);
        mixed[2 * i + 1] = interleaved<Word, true>(rows[i], rows[i + side / 2]);
      }
      std::memcpy(rows, mixed, sizeof rows);
    }
    for (std::size_t i = 0; i < side; ++i) {
      std::memcpy(destination + i * to, &rows[i], sizeof rows[i]);
    }
  }
};

#else

/// Transposes a square of `lanes.size()` words in each of as many numbers: blocks off the diagonal are exchanged, of half the square, of a
/// quarter, and so on (Warren, Hacker's Delight, 7-3).
template <std::size_t Count>
constexpr void transpose_lanes(std::array<std::uint64_t, Count>& lanes) noexcept {
  std::uint64_t mask = ~std::uint64_t{0};
  for (std::size_t half = Count / 2; half != 0; half /= 2) {
    const std::size_t shift = half * (64 / Count);
    mask ^= mask << shift;  // of each block the lower half
    for (std::size_t i = 0; i < Count; ++i) {
      if ((i & half) == 0) {
        const std::uint64_t change = ((lanes[i] >> shift) ^ lanes[i + half]) & mask;
        lanes[i] ^= change << shift;
        lanes[i + half] ^= change;
      }
    }
  }
}

template <std::size_t Word>
struct word_square {
  static constexpr std::size_t side = 8 / Word;

  static void transpose(const std::byte* source, std::uint64_t from, std::byte* destination,
                        std::uint64_t to) noexcept {
    std::array<std::uint64_t, side> lanes;
    for (std::size_t i = 0; i < side; ++i) {
      std::memcpy(&lanes[i], source + i * from, sizeof lanes[i]);
    }
    if constexpr (side > 1) {
      transpose_lanes(lanes);
    }
    for (std::size_t i = 0; i < side; ++i) {
      std::memcpy(destination + i * to, &lanes[i], sizeof lanes[i]);
    }
  }
};

#endif

/// A square of `Side` x `Side` words through an array, in whole cache lines: across the lines of a tensor whose rows are a power of two, few
/// of them would stay in the first-level cache.
template <std::size_t Word, std::size_t Side>
void transpose_tile(const std::byte* source, std::uint64_t from, std::byte* destination, std::uint64_t to) noexcept {
  std::array<std::byte, Side * Side * Word> tile;
  for (std::size_t c = 0; c < Side; ++c) {
    std::memcpy(tile.data() + c * Side * Word, source + c * from, Side * Word);
  }
  if constexpr (Word <= 8) {
    constexpr std::size_t step = word_square<Word>::side;
    for (std::size_t r = 0; r < Side; r += step) {
      for (std::size_t c = 0; c < Side; c += step) {
        word_square<Word>::transpose(tile.data() + (c * Side + r) * Word, Side * Word, destination + r * to + c * Word,
                                     to);
      }
    }
  } else {
    for (std::size_t r = 0; r < Side; ++r) {
      for (std::size_t c = 0; c < Side; ++c) {
        std::memcpy(destination + r * to + c * Word, tile.data() + (c * Side + r) * Word, Word);
      }
    }
  }
}

/// The same where rows are neighbours in the source and columns are in the destination: in tiles, and these in panels that touch no more
/// pages than a processor knows the addresses of.
template <std::size_t Word>
void transpose_words(const std::byte* source, std::byte* destination, const factor& rows,
                     const factor& columns) noexcept {
  constexpr std::size_t side = Word < 4 ? 64 / Word : 16;
  constexpr std::uint64_t panel = 8 * side;
  const std::uint64_t whole_rows = align_down(rows.extent, side);
  const std::uint64_t whole_columns = align_down(columns.extent, side);
  for (std::uint64_t begin = 0; begin < whole_columns; begin += panel) {
    const std::uint64_t end = smaller(begin + panel, whole_columns);
    for (std::uint64_t row = 0; row < whole_rows; row += side) {
      for (std::uint64_t column = begin; column < end; column += side) {
        const bool has_next = column + side < end;
        for (std::size_t i = 0; has_next && i < side; ++i) {
          __builtin_prefetch(source + row * Word + (column + side + i) * columns.from);
        }
        transpose_tile<Word, side>(source + row * Word + column * columns.from, columns.from,
                                   destination + row * rows.to + column * Word, rows.to);
      }
    }
  }
  const auto rest = [&](std::uint64_t row, std::uint64_t column, std::uint64_t last_row) {
    place_words<Word>(source + row * Word + column * columns.from, destination + row * rows.to + column * Word,
                      {last_row - row, rows.from, rows.to}, {columns.extent - column, columns.from, columns.to});
  };
  rest(0, whole_columns, whole_rows);
  rest(whole_rows, 0, rows.extent);
}

template <std::size_t Word>
void place_plane(const std::byte* source, std::byte* destination, const factor& rows, const factor& columns) noexcept {
  if (rows.from == Word && columns.to == Word) {
    transpose_words<Word>(source, destination, rows, columns);
  } else {
    place_words<Word>(source, destination, rows, columns);
  }
}

/// Of words of any size, which a map has as runs.
inline void place_runs(std::uint64_t bytes, const std::byte* source, std::byte* destination, const factor& rows,
                       const factor& columns) noexcept {
  switch (bytes) {
    case 1:
      return place_plane<1>(source, destination, rows, columns);
    case 2:
      return place_plane<2>(source, destination, rows, columns);
    case 4:
      return place_plane<4>(source, destination, rows, columns);
    case 8:
      return place_plane<8>(source, destination, rows, columns);
    case 16:
      return place_plane<16>(source, destination, rows, columns);
    default:
      for (std::uint64_t row = 0; row < rows.extent; ++row) {
        for (std::uint64_t column = 0; column < columns.extent; ++column) {
          std::memcpy(destination + row * rows.to + column * columns.to,
                      source + row * rows.from + column * columns.from, bytes);
        }
      }
  }
}

}  // namespace detail

/// Copies the elements of the map, of `element_bytes` each, from their positions in `source` to those in `destination`.
/// \pre both hold all positions of theirs, and do not overlap; what is less than a byte comes as a map of bytes (`in_bytes`)
inline void place(strided_map map, std::uint64_t element_bytes, const std::byte* source,
                  std::byte* destination) noexcept {
  std::uint64_t run = element_bytes;
  if (map.has_runs()) {
    run *= map.factors[--map.rank].extent;
  }
  for (std::size_t k = 0; k < map.rank; ++k) {
    map.factors[k].from *= element_bytes;
    map.factors[k].to *= element_bytes;
  }
  source += map.from * element_bytes;
  destination += map.to * element_bytes;

  // The plane of the two innermost factors, of the destination and of the source; the others are counted through.
  const factor columns = map.rank != 0 ? map.factors[--map.rank] : factor{.extent = 1};
  factor rows{.extent = 1};
  if (map.rank != 0) {
    std::size_t innermost = map.rank - 1;
    for (std::size_t k = 0; k < map.rank; ++k) {
      innermost = map.factors[k].from < map.factors[innermost].from ? k : innermost;
    }
    rows = map.factors[innermost];
    for (--map.rank; innermost < map.rank; ++innermost) {
      map.factors[innermost] = map.factors[innermost + 1];
    }
  }
  std::array<std::uint64_t, strided_map::most_factors + 1> at{};
  while (true) {
    detail::place_runs(run, source, destination, rows, columns);
    std::size_t k = map.rank;
    for (; k != 0 && ++at[k - 1] == map.factors[k - 1].extent; --k) {
      source -= (map.factors[k - 1].extent - 1) * map.factors[k - 1].from;
      destination -= (map.factors[k - 1].extent - 1) * map.factors[k - 1].to;
      at[k - 1] = 0;
    }
    if (k == 0) {
      return;
    }
    source += map.factors[k - 1].from;
    destination += map.factors[k - 1].to;
  }
}

}  // namespace fsdpinit::index_map
