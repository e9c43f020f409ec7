/* A stand-in for NVIDIA's libnvidia-ml.so.1, with the functions that the proxy asks for.
 *
 * What it tells is read from the file named by $NVML_STAND_IN at every call, so that a test changes
 * it while a program runs. tests/support/nvml.py writes that file and says what its lines mean. The
 * layouts and numbers are those of nvml.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, VERSION_MISMATCH = 25,
};
enum { CARDS = 16, PROCESSES = 64, COMPUTE = 0, GRAPHICS = 1 };
#define MEMORY_V2 0x02000028u
#define NOT_AVAILABLE 0xffffffffffffffffull

typedef unsigned long long bytes;
typedef struct { bytes total, free, used; } memory_v1;
typedef struct { unsigned version; bytes total, reserved, free, used; } memory_v2;
typedef struct { unsigned pid; bytes used; unsigned gpu_instance, compute_instance; } process_info;
typedef struct {
    char legacy_bus_id[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} pci_info;

typedef struct {
    char uuid[96], bus_id[32], name[96];
    int capability;
    bytes total, reserved, others;
    int error, shared, mig, wddm, old;
    unsigned bus_bits, clock_mhz;
    double hang_s;
} card;
typedef struct { int card, kind; unsigned pid, follows; bytes used; } process;
typedef struct {
    int error, cards, processes;
    double hang_s;
    char version[32];
    card card[CARDS];
    process process[PROCESSES];
} machine;

/* Handles are addresses in here; which element it is is all that counts. */
static char handles[CARDS];
static int initialised;
/* For tests in the same process: how many calls hang now. */
int stand_in_hanging;

static int read_machine(machine *found) {
    char line[512];
    const char *path = getenv("NVML_STAND_IN");
    FILE *file = path ? fopen(path, "r") : NULL;
    memset(found, 0, sizeof *found);
    if (!file) {
        found->error = DRIVER_NOT_LOADED;
        return 0;
    }
    while (fgets(line, sizeof line, file)) {
        card *c = &found->card[found->cards];
        process *p = &found->process[found->processes];
        if (sscanf(line, "driver %d %lf %31s", &found->error, &found->hang_s, found->version) == 3)
            continue;
        if (found->cards < CARDS &&
            sscanf(line, "card %95s %31s %llu %llu %llu %d %lf %d %d %d %d %u %u %d %95[^\n]", c->uuid,
                   c->bus_id, &c->total, &c->reserved, &c->others, &c->error, &c->hang_s, &c->shared,
                   &c->mig, &c->wddm, &c->old, &c->bus_bits, &c->clock_mhz, &c->capability,
                   c->name) == 15)
            found->cards++;
        else if (found->processes < PROCESSES &&
                 sscanf(line, "process %d %d %u %llu %u", &p->card, &p->kind, &p->pid, &p->used,
                        &p->follows) == 5)
            found->processes++;
    }
    fclose(file);
    return 1;
}

/* The memory that the followed process has written to: its own, not that of the files it maps. */
static bytes resident(unsigned pid) {
    char path[64], line[256];
    bytes kib = 0;
    snprintf(path, sizeof path, "/proc/%u/status", pid);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file) && sscanf(line, "RssAnon: %llu", &kib) != 1) {}
    if (file) fclose(file);
    return kib * 1024;
}

static bytes used_by(const process *p) { return p->follows ? resident(p->follows) : p->used; }

/* Hang as long as the file says so, at most for the seconds in it. */
static void hang(int index) {
    machine now;
    double waited = 0;
    while (read_machine(&now)) {
        double card_s = index >= 0 && index < now.cards ? now.card[index].hang_s : 0;
        if (waited >= now.hang_s && waited >= card_s) break;
        if (waited == 0) __sync_fetch_and_add(&stand_in_hanging, 1);
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        waited += 0.01;
    }
    if (waited > 0) __sync_fetch_and_sub(&stand_in_hanging, 1);
}

/* What every call begins with. The card of `handle` is `found->card[*index]`. */
static int begin(const void *handle, machine *found, int *index) {
    *index = handle ? (int)((const char *)handle - handles) : -1;
    hang(*index);
    read_machine(found);
    if (found->error) return found->error;
    if (!initialised) return UNINITIALIZED;
    if (!handle) return SUCCESS;
    if (*index < 0 || *index >= found->cards) return INVALID_ARGUMENT;
    return found->card[*index].error;
}

int nvmlInitWithFlags(unsigned flags) {
    machine found;
    (void)flags;
    hang(-1);
    read_machine(&found);
    if (found.error) return found.error;
    initialised++;
    return SUCCESS;
}

int nvmlShutdown(void) {
    if (!initialised) return UNINITIALIZED;
    initialised--;
    return SUCCESS;
}

const char *nvmlErrorString(int error) {
    (void)error;
    return "stand-in error";
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    machine found;
    int index, error = begin(NULL, &found, &index);
    if (!error) snprintf(version, length, "%s", found.version);
    return error;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    machine found;
    int index, error = begin(NULL, &found, &index);
    *count = (unsigned)found.cards;
    return error;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned wanted, void **handle) {
    machine found;
    int index, error = begin(NULL, &found, &index);
    if (error) return error;
    if (wanted >= (unsigned)found.cards) return INVALID_ARGUMENT;
    *handle = &handles[wanted];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    machine found;
    int index, error = begin(NULL, &found, &index);
    if (error) return error;
    for (int i = 0; i < found.cards; i++) {
        if (strcasecmp(found.card[i].uuid, uuid)) continue;
        *handle = &handles[i];
        return SUCCESS;
    }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    machine found;
    int index, error = begin(handle, &found, &index);
    if (!error) snprintf(uuid, length, "%s", found.card[index].uuid);
    return error;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    machine found;
    int index, error = begin(handle, &found, &index);
    if (!error) snprintf(name, length, "%s", found.card[index].name);
    return error;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    machine found;
    int index, error = begin(handle, &found, &index);
    if (error) return error;
    *major = found.card[index].capability / 10;
    *minor = found.card[index].capability % 10;
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(void *handle, pci_info *info) {
    machine found;
    int index, error = begin(handle, &found, &index);
    if (error) return error;
    memset(info, 0, sizeof *info);
    snprintf(info->bus_id, sizeof info->bus_id, "%s", found.card[index].bus_id);
    sscanf(info->bus_id, "%x:%x:%x", &info->domain, &info->bus, &info->device);
    return SUCCESS;
}

static int memory(void *handle, memory_v2 *info) {
    machine found;
    int index, error = begin(handle, &found, &index);
    if (error) return error;
    const card *c = &found.card[index];
    if (c->shared) return NOT_SUPPORTED;
    info->total = c->total;
    info->reserved = c->reserved;
    info->used = c->others;
    for (int i = 0; i < found.processes; i++) {
        const process *p = &found.process[i];
        /* One that both computes and draws is listed twice, and has its memory once. */
        int twice = 0;
        for (int j = 0; j < i; j++)
            twice |= found.process[j].card == p->card && found.process[j].pid == p->pid;
        bytes used = used_by(p);
        if (p->card == index && !twice && used != NOT_AVAILABLE) info->used += used;
    }
    bytes taken = info->reserved + info->used;
    info->free = taken < info->total ? info->total - taken : 0;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(void *handle, memory_v2 *info) {
    machine found;
    int index, error = begin(handle, &found, &index);
    if (error) return error;
    if (info->version != MEMORY_V2 || found.card[index].old) return VERSION_MISMATCH;
    return memory(handle, info);
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_v1 *info) {
    memory_v2 newer;
    int error = memory(handle, &newer);
    if (!error) *info = (memory_v1){newer.total, newer.free, newer.used + newer.reserved};
    return error;
}

static int processes(void *handle, int kind, unsigned *room, process_info *infos) {
    machine found;
    int index, error = begin(handle, &found, &index);
    unsigned count = 0;
    if (error) return error;
    if (found.card[index].old) return NOT_SUPPORTED;
    for (int i = 0; i < found.processes; i++) {
        const process *p = &found.process[i];
        if (p->card != index || p->kind != kind) continue;
        if (infos && count < *room)
            infos[count] = (process_info){p->pid, used_by(p), ~0u, ~0u};
        count++;
    }
    error = count > (infos ? *room : 0) ? INSUFFICIENT_SIZE : SUCCESS;
    *room = count;
    return error;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *room, process_info *infos) {
    return processes(handle, COMPUTE, room, infos);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *room, process_info *infos) {
    return processes(handle, GRAPHICS, room, infos);
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    machine found;
    int index, error = begin(handle, &found, &index);
    if (error) return error;
    *current = *pending = (unsigned)found.card[index].mig;
    return SUCCESS;
}

/* Only Windows has driver models: 0 is WDDM, for screens, and 1 is TCC. */
int nvmlDeviceGetDriverModel_v2(void *handle, unsigned *current, unsigned *pending) {
    machine found;
    int index, error = begin(handle, &found, &index);
    if (error) return error;
    if (!found.card[index].wddm) return NOT_SUPPORTED;
    *current = *pending = 0;
    return SUCCESS;
}

int nvmlDeviceGetMemoryBusWidth(void *handle, unsigned *bits) {
    machine found;
    int index, error = begin(handle, &found, &index);
    if (error) return error;
    *bits = found.card[index].bus_bits;
    return *bits ? SUCCESS : NOT_SUPPORTED;
}

/* Of the clocks, number 2 is the memory's. */
int nvmlDeviceGetMaxClockInfo(void *handle, int clock, unsigned *megahertz) {
    machine found;
    int index, error = begin(handle, &found, &index);
    if (error) return error;
    *megahertz = clock == 2 ? found.card[index].clock_mhz : 0;
    return *megahertz ? SUCCESS : NOT_SUPPORTED;
}
