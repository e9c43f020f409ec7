// Stands before the real llama-server and takes the one option that it does not know.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <vector>

extern "C" void stand_in_cache(size_t size);

__attribute__((visibility("default"))) int llama_server(int argc, char **argv) {
  std::vector<char *> kept;
  for (int i = 0; i < argc; i++) {
    if (strcmp(argv[i], "--moe-cache-mib") == 0 && i + 1 < argc)
      stand_in_cache(strtoull(argv[++i], nullptr, 10) << 20);
    else
      kept.push_back(argv[i]);
  }
  kept.push_back(nullptr);
  using Function = int(int, char **);
  auto next = reinterpret_cast<Function *>(dlsym(RTLD_NEXT, "_Z12llama_serveriPPc"));
  return next(static_cast<int>(kept.size()) - 1, kept.data());
}
