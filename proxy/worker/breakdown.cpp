// What llama.cpp tells in a way that only C++ can take, as plain arrays: what a context holds in each buffer type
// (llama_get_memory_breakdown() returns a std::map), and a model's tensors (llama_internal_get_tensor_map() a
// std::vector). Their declarations are in headers that are not installed, so they are repeated here.
#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

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

// Fills pointers to the tensors of a model, as many as there is room for. Returns how many there are.
extern "C" __attribute__((visibility("default"))) int gate_tensors(void *function, const void *model, void **out,
                                                                   int room) {
  auto tensors = reinterpret_cast<const std::vector<std::pair<std::string, void *>> &(*)(const void *)>(function);
  int count = 0;
  for (const auto &[name, tensor] : tensors(model)) {
    if (count < room) out[count] = tensor;
    count++;
  }
  return count;
}
