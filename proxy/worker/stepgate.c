/* The step gate: where llama-server's decode thread lets a migration in.
 *
 * llama-server calls llama_process() (older ones llama_decode() and llama_encode()) for each decode step, and
 * ggml_time_ms() each time its task loop goes round. They are undefined in libllama-server-impl, so a library that
 * defines them and is loaded first, globally, wins the symbol lookup: plain ELF interposition. What we define counts
 * and forwards. Which of them there are, and whether a batch is as large as here, gate.py has looked.
 *
 * A mover asks for the gate with gate_want(), waits with gate_wait() until the decode thread is parked, works
 * on the context from its own thread, and calls gate_open(). While it is parked nothing of the model is in use:
 *   GATE_STEP   parks at the entry of a step only: the outputs of the step before have been read by then;
 *   GATE_ANY    also where the task loop goes round, which an idle server does once it is sent any task.
 *               What is left of a step there are its outputs in host memory, and moving experts keeps those;
 *   GATE_LOOP   only in that loop, where its address is known, so that a server that starts is stopped when its model
 *               is loaded and not before. Where it is not, as GATE_ANY.
 *
 * llama-server may free its contexts and its model and load them anew, at addresses that were in use before. So the
 * functions that free are ours too: a context is forgotten when it goes, and of one model, the one whose tensors a
 * mover knows, it is noted that it went. A mover that reads weights outside the gate pins that model meanwhile.
 *
 * Nor does llama-server make a context without us: what is to be otherwise while it does is told by gate_contexts_by().
 *
 * Our counterpart in Python is proxy/worker/gate.py.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_CONTEXTS 16
/* More than any llama.cpp has of struct llama_context_params, which is handed over by value. */
#define PARAMETERS_BYTES 1024

enum { GATE_OPEN = 0, GATE_STEP = 1, GATE_ANY = 2, GATE_LOOP = 3 };

static atomic_int wanted;
static atomic_long steps;
static atomic_int steps_running;
static atomic_long contexts_freed;
static atomic_int model_leaves;

/* Written by the decode thread at its first step, read by itself and by whoever calls ggml_time_ms(). */
static atomic_int server_known;
static pthread_t server;

/* All below is under `lock`. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed; /* waits by the monotonic clock: the other one may be set while somebody waits */
static int parked;
static int passes; /* whoever is parked goes on, though the gate is wanted */
static void *contexts[MAX_CONTEXTS];
static int n_contexts;
static void *watched_model;
static int pinned;

/* `struct llama_batch` of llama.h, which llama_decode() takes by value. */
typedef struct {
  int32_t n_tokens;
  void *arrays[6];
} batch_t;

static int32_t (*real_process)(void *, int, void *);
static int32_t (*real_decode)(void *, batch_t);
static int32_t (*real_encode)(void *, batch_t);
static int64_t (*real_time_ms)(void);
static void (*real_free)(void *);
static void (*real_model_free)(void *);
static void *loop; /* the function with the task loop, or NULL */

struct parameters {
  char bytes[PARAMETERS_BYTES];
};
static void *(*real_init)(void *, struct parameters);
/* Set before the server's thread is there. */
static void (*context_begins)(void *model);
static void (*context_ends)(void *context);
static void (*model_goes)(void *model);

__attribute__((constructor)) static void set_up(void) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&changed, &attributes);
  pthread_condattr_destroy(&attributes);
}

/* Takes the real functions; of those for steps, the ones that there are, and `init` where it is. Returns 0, or -1 where
 * one is missing. */
EXPORT int gate_install(void *process, void *decode, void *encode, void *time_ms, void *free_context,
                        void *free_model, void *init) {
  real_init = (void *(*)(void *, struct parameters))init;
  real_process = (int32_t (*)(void *, int, void *))process;
  real_decode = (int32_t (*)(void *, batch_t))decode;
  real_encode = (int32_t (*)(void *, batch_t))encode;
  real_time_ms = (int64_t (*)(void))time_ms;
  real_free = (void (*)(void *))free_context;
  real_model_free = (void (*)(void *))free_model;
  return (process || decode) && time_ms && free_context && free_model ? 0 : -1;
}

/* Where the task loop begins; NULL: nobody knows. Before the server starts. */
EXPORT void gate_loop(void *address) { loop = address; }

static int in_loop(const void *caller) {
  Dl_info found;
  return dladdr(caller, &found) && found.dli_saddr == loop;
}

EXPORT long gate_steps(void) { return atomic_load(&steps); }

EXPORT int gate_stepping(void) { return atomic_load(&steps_running) > 0; }

/* The contexts that have stepped so far, oldest first (a server can have several: draft, MTP). Returns how many. */
EXPORT int gate_contexts(void **out, int room) {
  pthread_mutex_lock(&lock);
  int n = n_contexts < room ? n_contexts : room;
  for (int i = 0; i < n; i++) out[i] = contexts[i];
  pthread_mutex_unlock(&lock);
  return n;
}

EXPORT void gate_want(int where) {
  pthread_mutex_lock(&lock);
  atomic_store(&wanted, where);
  pthread_mutex_unlock(&lock);
}

/* Waits until the decode thread is parked: 1, or 0 after timeout_ms (it then still is wanted). */
EXPORT int gate_wait(long timeout_ms) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_sec += timeout_ms / 1000;
  until.tv_nsec += (timeout_ms % 1000) * 1000000L;
  if (until.tv_nsec >= 1000000000L) {
    until.tv_sec += 1;
    until.tv_nsec -= 1000000000L;
  }
  pthread_mutex_lock(&lock);
  int late = 0;
  while (!parked && !late) late = pthread_cond_timedwait(&changed, &lock, &until);
  int held = parked;
  pthread_mutex_unlock(&lock);
  return held;
}

EXPORT void gate_open(void) {
  pthread_mutex_lock(&lock);
  atomic_store(&wanted, GATE_OPEN);
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

/* Has the decode thread go on if it is parked, and park again at the next place. */
EXPORT void gate_pass(void) {
  pthread_mutex_lock(&lock);
  passes = parked;
  parked = 0;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

/* From now on `model` is the one whose tensors are known. */
EXPORT void gate_watch(void *model) {
  pthread_mutex_lock(&lock);
  watched_model = model;
  pthread_mutex_unlock(&lock);
}

/* The model that was given to gate_watch(), or NULL once it has been freed. */
EXPORT void *gate_watched(void) {
  pthread_mutex_lock(&lock);
  void *model = watched_model;
  pthread_mutex_unlock(&lock);
  return model;
}

/* Keeps the watched model from being freed until gate_unpin(): 1, or 0 where it is gone, or about to go. For one
 * thread. */
EXPORT int gate_pin(void) {
  pthread_mutex_lock(&lock);
  int there = pinned = watched_model && !atomic_load(&model_leaves);
  pthread_mutex_unlock(&lock);
  return there;
}

EXPORT void gate_unpin(void) {
  pthread_mutex_lock(&lock);
  pinned = 0;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

/* Whether somebody waits for gate_unpin(), to free the model. */
EXPORT int gate_model_leaves(void) { return atomic_load(&model_leaves); }

static void park(int here) {
  pthread_mutex_lock(&lock);
  if (atomic_load(&wanted) >= here) {
    parked = 1;
    pthread_cond_broadcast(&changed);
    while (atomic_load(&wanted) != GATE_OPEN && !passes) pthread_cond_wait(&changed, &lock);
    parked = passes = 0;
  }
  pthread_mutex_unlock(&lock);
}

static void remember(void *context) {
  pthread_mutex_lock(&lock);
  int i = 0;
  while (i < n_contexts && contexts[i] != context) i++;
  if (i == n_contexts && n_contexts < MAX_CONTEXTS) contexts[n_contexts++] = context;
  pthread_mutex_unlock(&lock);
}

/* A step that is made of others, as where llama_decode() calls llama_process(), is one. */
static _Thread_local int depth;

/* Runs however a step ends: an allocation that fails in it is a C++ exception, which llama-server catches. It leaves C
 * frames too, and runs their cleanups where they are built with -fexceptions (setup.py). */
static void step_ended(const int *unused) {
  (void)unused;
  if (--depth == 0) atomic_fetch_sub(&steps_running, 1);
}

static int step_begins(void *context) {
  static _Thread_local void *last;
  static _Thread_local long last_freed;
  if (depth++ > 0) return depth;
  long freed = atomic_load(&contexts_freed);
  if (context != last || freed != last_freed) { /* it may be a new one at an old address */
    remember(context);
    last = context;
    last_freed = freed;
    if (!atomic_load(&server_known)) {
      server = pthread_self();
      atomic_store(&server_known, 1);
    }
  }
  atomic_fetch_add(&steps, 1);
  int where = atomic_load(&wanted);
  if (where >= GATE_STEP && !(where == GATE_LOOP && loop)) park(GATE_STEP);
  atomic_fetch_add(&steps_running, 1);
  return depth;
}

#define STEP(context) __attribute__((cleanup(step_ended), unused)) const int step = step_begins(context)

EXPORT int32_t llama_process(void *context, int type, void *batch) {
  STEP(context);
  return real_process(context, type, batch);
}

EXPORT int32_t llama_decode(void *context, batch_t batch) {
  STEP(context);
  return real_decode(context, batch);
}

EXPORT int32_t llama_encode(void *context, batch_t batch) {
  STEP(context);
  return real_encode(context, batch);
}

EXPORT int64_t ggml_time_ms(void) {
  int where = atomic_load(&wanted);
  if (where >= GATE_ANY && atomic_load(&server_known) && pthread_equal(server, pthread_self()) &&
      atomic_load(&steps_running) == 0 && !(where == GATE_LOOP && loop && !in_loop(__builtin_return_address(0))))
    park(GATE_ANY);
  if (real_time_ms) return real_time_ms();
  struct timespec now; /* before gate_install(): the same clock that ggml uses */
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

EXPORT void llama_free(void *context) {
  pthread_mutex_lock(&lock);
  int kept = 0;
  for (int i = 0; i < n_contexts; i++)
    if (contexts[i] != context) contexts[kept++] = contexts[i];
  n_contexts = kept;
  atomic_fetch_add(&contexts_freed, 1);
  pthread_mutex_unlock(&lock);
  if (real_free) real_free(context);
}

EXPORT void llama_model_free(void *model) {
  pthread_mutex_lock(&lock);
  if (model && model == watched_model) {
    atomic_store(&model_leaves, 1);
    while (pinned) pthread_cond_wait(&changed, &lock);
    atomic_store(&model_leaves, 0);
    watched_model = NULL;
  }
  pthread_mutex_unlock(&lock);
  if (model_goes) model_goes(model);
  if (real_model_free) real_model_free(model);
}

/* From now on `begins` is called before each context is made of a model, and `ends` with it, or NULL, afterwards; both
 * by whoever makes it. `goes`: before a model is freed. */
EXPORT void gate_contexts_by(void *begins, void *ends, void *goes) {
  model_goes = (void (*)(void *))goes;
  context_begins = (void (*)(void *))begins;
  context_ends = (void (*)(void *))ends;
}

EXPORT void *llama_init_from_model(void *model, struct parameters parameters) {
  if (!real_init) return NULL;
  if (context_begins) context_begins(model);
  void *context = real_init(model, parameters);
  if (context_ends) context_ends(context);
  return context;
}

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_stepgate", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__stepgate(void) { return PyModule_Create(&module); }
