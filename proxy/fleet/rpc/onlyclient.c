/* Loaded before ggml-rpc-server (LD_PRELOAD): of all that connect to it, one gets in.
 *
 * Such a server trusts whoever it accepts, and loopback is open to everybody on the machine. Its one
 * client has a port of its own before the server starts, by which it is known here: while it has
 * that, nobody else can. Counterpart: server.py.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int accept4(int listener, struct sockaddr *address, socklen_t *size, int flags) {
    const char *said = getenv("MOE_PROXY_ONLY_PORT");
    int only = said ? atoi(said) : 0; /* 0 is nobody's */
    for (;;) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        memset(&from, 0, sizeof from);
        int got = (int)syscall(SYS_accept4, listener, &from, &length, flags);
        if (got < 0)
            return got;
        if (from.sin_family == AF_INET && from.sin_addr.s_addr == htonl(INADDR_LOOPBACK) &&
            only > 0 && ntohs(from.sin_port) == only) {
            if (address && size) {
                memcpy(address, &from, *size < length ? *size : length);
                *size = length;
            }
            return got;
        }
        close(got);
    }
}

int accept(int listener, struct sockaddr *address, socklen_t *size) {
    return accept4(listener, address, size, 0);
}
