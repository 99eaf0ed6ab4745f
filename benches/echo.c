/* The service of the measurements: up in well under a millisecond, so that what is measured is the
 * supervisor. Speaks LISTEN_FDS (or SERVER_STARTER_PORT), says READY=1, answers HTTP with its pid and the
 * moment of its first instruction, drains on SIGTERM.
 *
 *     echo [drain|drop|pause]     drop: on SIGTERM everything is dropped at once; pause: ready, no sockets */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FDS = 65536, IDLE_IN_DRAIN_MS = 300 };
enum kind { NONE, LISTENER, SIGNALS, CONNECTION };

static unsigned char kinds[MAX_FDS];
static int connections, poller, draining;
static char answer[2][256];
static int length[2];

static long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void say_ready(void)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    if (!path || strlen(path) >= sizeof to.sun_path)
        return;
    size_t size = strlen(path);
    memcpy(to.sun_path, path, size);
    if (to.sun_path[0] == '@')
        to.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sendto(fd, "READY=1", 7, MSG_NOSIGNAL, (struct sockaddr *)&to,
           offsetof(struct sockaddr_un, sun_path) + size + (path[0] != '@'));
    close(fd);
}

static void watch(int fd, enum kind kind)
{
    struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
    if (fd >= MAX_FDS || epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) {
        close(fd);
        return;
    }
    kinds[fd] = kind;
    connections += kind == CONNECTION;
}

static void forget(int fd)
{
    connections -= kinds[fd] == CONNECTION;
    kinds[fd] = NONE;
    close(fd);
}

static void serve(int fd)
{
    char request[4096];
    ssize_t got = recv(fd, request, sizeof request - 1, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        forget(fd);
        return;
    }
    request[got] = 0;
    int closes = draining || strstr(request, "Connection: close") != NULL;
    if (send(fd, answer[closes], length[closes], MSG_NOSIGNAL) < 0 || closes)
        forget(fd);
}

static void add_listeners(int first, int count)
{
    for (int fd = first; fd < first + count; fd++) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        watch(fd, LISTENER);
    }
}

static void listeners(void)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    if (pid && count && atoi(pid) == getpid()) {
        add_listeners(3, atoi(count));
        return;
    }
    /* 127.0.0.1:8080=3;127.0.0.1:8081=4 */
    const char *at = getenv("SERVER_STARTER_PORT");
    while (at && (at = strchr(at, '=')))
        add_listeners(atoi(++at), 1);
}

static void on_term(void)
{
    draining = 1;
    for (int fd = 0; fd < MAX_FDS; fd++)
        if (kinds[fd] == LISTENER)
            forget(fd);
}

int main(int count, char **arguments)
{
    long long began = now_ns();
    const char *mode = count > 1 ? arguments[1] : "drain";
    for (int closes = 0; closes < 2; closes++) {
        char body[96];
        int size = snprintf(body, sizeof body, "pid=%d start=%lld\n", getpid(), began);
        length[closes] = snprintf(answer[closes], sizeof answer[closes],
                                  "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s", size,
                                  closes ? "Connection: close\r\n" : "", body);
    }
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (strcmp(mode, "pause") != 0)
        listeners();
    watch(signalfd(-1, &term, SFD_CLOEXEC), SIGNALS);
    say_ready();
    while (!draining || connections > 0) {
        struct epoll_event events[64];
        int ready = epoll_wait(poller, events, 64, draining ? IDLE_IN_DRAIN_MS : -1);
        if (ready == 0)
            break;
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (kinds[fd] == SIGNALS) {
                if (strcmp(mode, "drop") == 0)
                    _exit(0);
                /* Once: what it reads is thrown away with the process. */
                forget(fd);
                on_term();
            } else if (kinds[fd] == LISTENER) {
                int fresh = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
                if (fresh >= 0) {
                    watch(fresh, CONNECTION);
                    serve(fresh);
                }
            } else if (kinds[fd] == CONNECTION) {
                serve(fd);
            }
        }
    }
    return 0;
}
