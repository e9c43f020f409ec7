// A llama.cpp that seems to have an expert cache, for tests of everything around it: this library stands before the
// real libllama and takes what the cache has to do with. What it does as the real one does (llama.cpp's
// src/llama-moe-cache.cpp): it is made with the context, on the first GPU, of all layers whose experts
// are in host memory then, from which size it is told; it is counted under the context; and without a GPU there is
// no context. It computes nothing. Where the real one would read freed or foreign memory because a layer that it has
// was moved, this one says so and aborts.
#include <dlfcn.h>
#include <ggml-backend.h>
#include <ggml.h>
#include <llama.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#define EXPORT __attribute__((visibility("default")))

struct llama_memory_breakdown_data {
  size_t model, context, compute;
};
using Breakdown = std::map<ggml_backend_buffer_type_t, llama_memory_breakdown_data>;
using Tensors = std::vector<std::pair<std::string, ggml_tensor *>>;

const Tensors &llama_internal_get_tensor_map(const llama_model *model);  // of src/llama-model.h
Breakdown llama_get_memory_breakdown(const llama_context *context);      // of src/llama-ext.h

namespace {

struct Cached {
  ggml_tensor *tensor;
  ggml_backend_buffer_t buffer;
  void *data;
};

size_t bytes;
llama_context *owner;
ggml_backend_buffer_t bank;
std::vector<Cached> cached;

template <typename F>
F *real(F *, const char *name) {
  return reinterpret_cast<F *>(dlsym(RTLD_NEXT, name));
}

ggml_backend_dev_t first_gpu() {
  for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
    auto type = ggml_backend_dev_type(ggml_backend_dev_get(i));
    if (type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU) return ggml_backend_dev_get(i);
  }
  return nullptr;
}

bool in_host(const ggml_tensor *tensor) {
  return tensor->buffer && ggml_backend_buffer_is_host(tensor->buffer) &&
         ggml_backend_buffer_get_usage(tensor->buffer) == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
}

bool make_cache(llama_context *context) {
  ggml_backend_dev_t gpu = first_gpu();
  if (!gpu) {
    fprintf(stderr, "stand-in: MoE cache requires a GPU backend\n");
    return false;
  }
  std::map<int, std::vector<ggml_tensor *>> layers;
  for (const auto &[name, tensor] : llama_internal_get_tensor_map(llama_get_model(context))) {
    int layer;
    if (sscanf(name.c_str(), "blk.%d.", &layer) == 1 && name.find("_exps.weight") != std::string::npos)
      layers[layer].push_back(tensor);
  }
  std::string list;
  cached.clear();
  for (const auto &[layer, experts] : layers) {
    bool whole = true;
    for (const ggml_tensor *tensor : experts) whole = whole && in_host(tensor);
    if (!whole) continue;
    for (ggml_tensor *tensor : experts) cached.push_back({tensor, tensor->buffer, tensor->data});
    list += " " + std::to_string(layer);
  }
  if (cached.empty()) return true;
  if (bytes <= 1 << 20) {
    fprintf(stderr, "stand-in: MoE cache is too small to hold the experts of one token\n");
    return false;
  }
  bank = ggml_backend_buft_alloc_buffer(ggml_backend_dev_buffer_type(gpu), bytes);
  if (!bank) {
    fprintf(stderr, "stand-in: failed to allocate the MoE cache buffers\n");
    return false;
  }
  owner = context;
  fprintf(stderr, "stand-in: expert cache of %zu MiB, layers:%s\n", bytes >> 20, list.c_str());
  return true;
}

}  // namespace

extern "C" EXPORT void stand_in_cache(size_t size) { bytes = size; }

extern "C" EXPORT llama_context *llama_init_from_model(llama_model *model, llama_context_params params) {
  llama_context *context = real(llama_init_from_model, "llama_init_from_model")(model, params);
  if (context && bytes && !owner && !make_cache(context)) {
    llama_free(context);
    return nullptr;
  }
  return context;
}

extern "C" EXPORT void llama_free(llama_context *context) {
  if (context == owner && bank) {
    ggml_backend_buffer_free(bank);
    bank = nullptr;
    owner = nullptr;
    cached.clear();
  }
  real(llama_free, "llama_free")(context);
}

extern "C" EXPORT int32_t llama_process(llama_context *context, llama_process_type type, llama_batch_ext *batch) {
  for (const Cached &each : cached)
    if (each.tensor->buffer != each.buffer || each.tensor->data != each.data) {
      fprintf(stderr, "stand-in: %s was moved, and the expert cache has it\n", each.tensor->name);
      abort();
    }
  return real(llama_process, "llama_process")(context, type, batch);
}

EXPORT Breakdown llama_get_memory_breakdown(const llama_context *context) {
  using Function = Breakdown(const llama_context *);
  auto next = reinterpret_cast<Function *>(dlsym(RTLD_NEXT, "_Z26llama_get_memory_breakdownPK13llama_context"));
  Breakdown held = next(context);
  if (context == owner && bank) held[ggml_backend_buffer_get_type(bank)].context += ggml_backend_buffer_get_size(bank);
  return held;
}
