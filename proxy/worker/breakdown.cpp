// What a context holds in each buffer type, as plain arrays: llama_get_memory_breakdown() returns a std::map, which
// only C++ can take. Its declaration is in llama.cpp's src/llama-ext.h, which is not installed, so it is repeated here.
#include <cstddef>
#include <map>

namespace {
struct Held {
  size_t model, context, compute;
};
}  // namespace

// Fills buffer types and their bytes (model, context, compute; three a row). Returns how many rows there are.
extern "C" __attribute__((visibility("default"))) int gate_breakdown(void *function, const void *context, void **types,
                                                                     size_t *bytes, int room) {
  auto breakdown = reinterpret_cast<std::map<void *, Held> (*)(const void *)>(function);
  int row = 0;
  for (const auto &[type, held] : breakdown(context)) {
    if (row == room) break;
    types[row] = type;
    bytes[3 * row] = held.model;
    bytes[3 * row + 1] = held.context;
    bytes[3 * row + 2] = held.compute;
    row++;
  }
  return row;
}
