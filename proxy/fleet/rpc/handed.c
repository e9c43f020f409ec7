/* Loaded before ggml-rpc-server (LD_PRELOAD): it has one client, which is there from the start.
 *
 * Such a server trusts whoever reaches it, and any port is in reach of everybody on the machine. So
 * it listens nowhere: what it takes for its first client is a connection that it is handed, and when
 * that has closed it ends. Counterpart: server.py.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int handed = 0;

/* It ends with the thread that has started it, which waits for it: also where that is killed before
 * it could tell anybody else of this process. */
__attribute__((constructor)) static void end_with_parent(void) {
    const char *parent = getenv("MOE_PROXY_HANDED_BY");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (parent != NULL && getppid() != atoi(parent))
        _exit(0); /* it was killed before that */
}

int bind(int fd, const struct sockaddr *address, socklen_t size) {
    (void)fd, (void)address, (void)size;
    return 0;
}

int listen(int fd, int backlog) {
    (void)fd, (void)backlog;
    return 0;
}

int accept4(int listener, struct sockaddr *address, socklen_t *size, int flags) {
    (void)listener, (void)address, (void)flags;
    const char *said = getenv("MOE_PROXY_HANDED_FD");
    if (handed++ || said == NULL)
        _exit(0); /* its drivers would take their time, and nobody waits for their word */
    if (size)
        *size = 0;
    return atoi(said);
}

int accept(int listener, struct sockaddr *address, socklen_t *size) {
    return accept4(listener, address, size, 0);
}
