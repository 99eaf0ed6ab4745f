/* The stopwatch of the measurements: everything that a script would be too slow for. Every figure is one
 * line on standard output, in nanoseconds.
 *
 *     meter start N PORT COMMAND...    exec of COMMAND -> first answer on PORT
 *     meter ready N COUNT COMMAND...   exec of COMMAND -> so many READY=1 from it and what it starts
 *     meter first N PORT COMMAND...    first connection -> answer, once PORT listens
 *     meter reload N PORT PID          SIGHUP to PID -> first answer of another process, that process's first
 *                                      instruction, end of the process that answered before
 *     meter orphans N                  N orphans made -> all of them reaped (run below the init to measure)
 *     meter load PORT RATE KEPT SECONDS FILE
 *                                      RATE connections a second and KEPT kept ones with 100 requests a second
 *                                      each; FILE gets start, latency, 1 for an answer; all as int64 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FRESH_THREADS = 4, KEPT_RATE = 100 };
static const long long LIMIT = 20000000000LL;

struct answer {
    int pid, closes;
    long long start;
};

static long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_until(long long at)
{
    struct timespec t = { at / 1000000000LL, at % 1000000000LL };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

static void fail(const char *what)
{
    fprintf(stderr, "meter: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int dial(int port)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
    struct timeval patience = { 5, 0 };
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* One request on an open connection; 0 for a whole answer. */
static int ask(int fd, int keep, struct answer *answer)
{
    static const char *requests[2] = {
        "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    };
    char text[4096];
    size_t have = 0;
    if (send(fd, requests[keep], strlen(requests[keep]), MSG_NOSIGNAL) < 0)
        return -1;
    for (;;) {
        ssize_t got = recv(fd, text + have, sizeof text - 1 - have, 0);
        if (got <= 0)
            return -1;
        text[have += got] = 0;
        char *body = strstr(text, "\r\n\r\n");
        if (body && strchr(body + 4, '\n')) {
            char *pid = strstr(body, "pid="), *start = strstr(body, "start=");
            answer->pid = pid ? atoi(pid + 4) : 0;
            answer->start = start ? atoll(start + 6) : 0;
            answer->closes = strcasestr(text, "connection: close") != NULL;
            return strncmp(text, "HTTP/1.1 200", 12) == 0 ? 0 : -1;
        }
    }
}

static int get(int port, struct answer *answer)
{
    int fd = dial(port);
    if (fd < 0)
        return -1;
    int result = ask(fd, 0, answer);
    close(fd);
    return result;
}

static pid_t launch(char **command)
{
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        execvp(command[0], command);
        _exit(127);
    }
    if (pid < 0)
        fail("fork");
    return pid;
}

/* Fails as soon as there is nothing to wait for any more. */
static void must_live(pid_t pid, long long began)
{
    if (waitpid(pid, NULL, WNOHANG) == pid) {
        errno = ECHILD;
        fail("it ended instead of serving");
    }
    if (now_ns() - began > LIMIT) {
        errno = ETIMEDOUT;
        fail("it does not serve");
    }
}

/* Ends a supervisor that we started, and waits until nothing listens on the port any more. */
static void finish(pid_t pid, int port)
{
    long long limit = now_ns() + LIMIT;
    struct answer answer;
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
    kill(-pid, SIGKILL);
    while (port && get(port, &answer) == 0 && now_ns() < limit)
        usleep(1000);
}

static void measure_start(int n, int port, char **command)
{
    prctl(PR_SET_TIMERSLACK, 1);
    for (int i = 0; i < n; i++) {
        struct answer answer;
        long long began = now_ns();
        pid_t pid = launch(command);
        while (get(port, &answer) < 0) {
            must_live(pid, began);
            /* Whoever spins here keeps the processor from what is to start on it. */
            sleep_until(now_ns() + 20000);
        }
        printf("%lld\n", now_ns() - began);
        finish(pid, port);
    }
}

static void measure_ready(int n, int count, char **command)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    struct timeval patience = { 20, 0 };
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(at.sun_path, sizeof at.sun_path, "/tmp/meter-%d.sock", getpid());
    unlink(at.sun_path);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0)
        fail("bind");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setenv("NOTIFY_SOCKET", at.sun_path, 1);
    for (int i = 0; i < n; i++) {
        char text[1024];
        int ready = 0;
        long long began = now_ns();
        pid_t pid = launch(command);
        while (ready < count) {
            ssize_t got = recv(fd, text, sizeof text - 1, 0);
            if (got < 0)
                fail("no READY=1");
            text[got] = 0;
            ready += strstr(text, "READY=1") != NULL;
        }
        printf("%lld\n", now_ns() - began);
        finish(pid, 0);
        while (recv(fd, text, sizeof text, MSG_DONTWAIT) >= 0)
            ;
    }
    unlink(at.sun_path);
}

static int listens(int port)
{
    char line[512], wanted[32];
    int found = 0;
    FILE *table = fopen("/proc/net/tcp", "r");
    snprintf(wanted, sizeof wanted, ":%04X 00000000:0000 0A", port);
    while (table && fgets(line, sizeof line, table))
        found |= strstr(line, wanted) != NULL;
    if (table)
        fclose(table);
    return found;
}

static void measure_first(int n, int port, char **command)
{
    for (int i = 0; i < n; i++) {
        struct answer answer;
        long long began = now_ns();
        pid_t pid = launch(command);
        while (!listens(port))
            must_live(pid, began);
        /* Let it come to rest: what is measured is the connection, not the end of the start. */
        usleep(20000);
        began = now_ns();
        if (get(port, &answer) < 0)
            fail("no answer");
        printf("%lld\n", now_ns() - began);
        finish(pid, port);
    }
}

struct watch {
    int pidfd;
    long long gone;
};

static void *watch_end(void *data)
{
    struct watch *watch = data;
    struct pollfd set = { watch->pidfd, POLLIN, 0 };
    watch->gone = poll(&set, 1, 20000) == 1 ? now_ns() : 0;
    return NULL;
}

static void measure_reload(int n, int port, pid_t supervisor)
{
    for (int i = 0; i < n; i++) {
        struct answer before, after;
        pthread_t thread;
        if (get(port, &before) < 0)
            fail("no answer before the reload");
        struct watch watch = { syscall(SYS_pidfd_open, before.pid, 0), 0 };
        if (watch.pidfd < 0)
            fail("pidfd_open");
        pthread_create(&thread, NULL, watch_end, &watch);
        usleep(2000);
        long long began = now_ns();
        kill(supervisor, SIGHUP);
        do {
            if (now_ns() - began > LIMIT)
                fail("no new process answers");
            if (get(port, &after) < 0)
                after.pid = before.pid;
        } while (after.pid == before.pid);
        long long answered = now_ns() - began;
        pthread_join(thread, NULL);
        close(watch.pidfd);
        printf("%lld %lld %lld\n", answered, after.start ? after.start - began : 0,
               watch.gone ? watch.gone - began : -1);
        fflush(stdout);
        usleep(10000);
    }
}

static pid_t *orphans;
static int orphan;

static int die_at_once(void *data)
{
    (void)data;
    _exit(0);
}

static int leave_orphan(void *stack)
{
    orphans[orphan] = clone(die_at_once, stack, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
    _exit(0);
}

/* A child leaves a dead child of its own behind: whoever is init has to reap it. */
static void measure_orphans(int n)
{
    enum { STACK = 65536 };
    char *outer = malloc(STACK), *inner = malloc(STACK);
    orphans = calloc(n, sizeof *orphans);
    long long began = now_ns();
    for (orphan = 0; orphan < n; orphan++) {
        pid_t child = clone(leave_orphan, outer + STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, inner + STACK);
        if (child < 0 || waitpid(child, NULL, 0) < 0)
            fail("clone");
    }
    for (int i = 0; i < n; i++)
        while (kill(orphans[i], 0) == 0) {
            if (now_ns() - began > LIMIT)
                fail("orphans are left");
            sched_yield();
        }
    printf("%lld\n", now_ns() - began);
}

struct client {
    int port, keep;
    long long began, until, interval, offset;
    int64_t *records;
    size_t count, room;
};

static void *run_client(void *data)
{
    struct client *client = data;
    int fd = -1;
    for (long long at = client->began + client->offset; at < client->until; at += client->interval) {
        struct answer answer = { 0 };
        sleep_until(at);
        long long began = now_ns();
        if (fd < 0)
            fd = dial(client->port);
        int good = fd >= 0 && ask(fd, client->keep, &answer) == 0;
        if (client->count < client->room) {
            int64_t *record = client->records + 3 * client->count++;
            record[0] = began;
            record[1] = now_ns() - began;
            record[2] = good;
        }
        if (fd >= 0 && (!good || !client->keep || answer.closes)) {
            close(fd);
            fd = -1;
        }
    }
    return NULL;
}

static void load(int port, int rate, int kept, double seconds, const char *path)
{
    int clients = FRESH_THREADS + kept;
    struct client *all = calloc(clients, sizeof *all);
    pthread_t *threads = calloc(clients, sizeof *threads);
    long long began = now_ns() + 10000000;
    for (int i = 0; i < clients; i++) {
        struct client *client = &all[i];
        client->port = port;
        client->keep = i >= FRESH_THREADS;
        client->began = began;
        client->until = began + (long long)(seconds * 1e9);
        client->interval = client->keep ? 1000000000LL / KEPT_RATE : 1000000000LL * FRESH_THREADS / rate;
        client->offset = client->interval * i / clients;
        client->room = (size_t)(seconds * 1e9 / client->interval) + 16;
        client->records = calloc(client->room, 3 * sizeof *client->records);
        pthread_create(&threads[i], NULL, run_client, client);
    }
    FILE *file = fopen(path, "w");
    if (!file)
        fail(path);
    for (int i = 0; i < clients; i++) {
        pthread_join(threads[i], NULL);
        fwrite(all[i].records, 3 * sizeof(int64_t), all[i].count, file);
    }
    if (fclose(file) != 0)
        fail(path);
}

int main(int count, char **arguments)
{
    char **a = arguments;
    if (count >= 5 && strcmp(a[1], "start") == 0)
        measure_start(atoi(a[2]), atoi(a[3]), a + 4);
    else if (count >= 5 && strcmp(a[1], "ready") == 0)
        measure_ready(atoi(a[2]), atoi(a[3]), a + 4);
    else if (count >= 5 && strcmp(a[1], "first") == 0)
        measure_first(atoi(a[2]), atoi(a[3]), a + 4);
    else if (count == 5 && strcmp(a[1], "reload") == 0)
        measure_reload(atoi(a[2]), atoi(a[3]), atoi(a[4]));
    else if (count == 3 && strcmp(a[1], "orphans") == 0)
        measure_orphans(atoi(a[2]));
    else if (count == 7 && strcmp(a[1], "load") == 0)
        load(atoi(a[2]), atoi(a[3]), atoi(a[4]), atof(a[5]), a[6]);
    else
        return 2;
    return 0;
}
