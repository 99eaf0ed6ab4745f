/* The floor: a supervisor that does nothing but hold sockets and replace a service on them. What Aeterna
 * takes more than this is the price of everything else that it does.
 *
 *     floor [-p PORT] [-n SOCKETS] [-u UNITS] [-l] COMMAND...   SIGHUP: new, wait for READY=1, SIGTERM to the old
 *     floor -i COMMAND...                                       an init: runs one child and reaps everything
 *
 * -l starts the service at the first connection; -u starts so many of them. Once all are ready it says
 * READY=1 to its own NOTIFY_SOCKET. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_SOCKETS = 4096, FIRST = 8192 };

extern char **environ;
static char **command, **environment;
static char listen_pid[32] = "LISTEN_PID=", listen_fds[32], notify_socket[128];
static sigset_t signals, nothing;
static int sockets;
static pid_t serving, starting;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void bind_all(int port)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (int i = 0; i < sockets; i++) {
        struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port + i) };
        int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        inet_pton(AF_INET, "127.0.0.1", &at.sin_addr);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 4096) < 0)
            die("bind");
        if (dup3(fd, FIRST + i, O_CLOEXEC) < 0)
            die("dup3");
        close(fd);
    }
}

static int bind_notify(void)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    int size = snprintf(at.sun_path + 1, sizeof at.sun_path - 1, "floor-%d", getpid());
    setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, offsetof(struct sockaddr_un, sun_path) + 1 + size) < 0)
        die("bind notify");
    snprintf(notify_socket, sizeof notify_socket, "NOTIFY_SOCKET=@%s", at.sun_path + 1);
    return fd;
}

static void make_environment(void)
{
    int count = 0, kept = 0;
    while (environ[count])
        count++;
    environment = calloc(count + 4, sizeof *environment);
    for (int i = 0; i < count; i++)
        if (strncmp(environ[i], "NOTIFY_SOCKET=", 14) != 0)
            environment[kept++] = environ[i];
    snprintf(listen_fds, sizeof listen_fds, "LISTEN_FDS=%d", sockets);
    environment[kept++] = listen_pid;
    environment[kept++] = listen_fds;
    environment[kept++] = notify_socket;
}

static void write_pid(void)
{
    char digits[16], *at = listen_pid + strlen("LISTEN_PID=");
    int n = 0;
    for (pid_t pid = getpid(); pid > 0; pid /= 10)
        digits[n++] = '0' + pid % 10;
    while (n > 0)
        *at++ = digits[--n];
    *at = 0;
}

static pid_t spawn(void)
{
    pid_t pid = vfork();
    if (pid < 0)
        die("vfork");
    if (pid > 0)
        return pid;
    write_pid();
    for (int i = 0; i < sockets; i++)
        dup2(FIRST + i, 3 + i);
    sigprocmask(SIG_SETMASK, &nothing, NULL);
    execvpe(command[0], command, environment);
    _exit(127);
}

/* The sender of the next READY=1, or 0 when there is none. */
static pid_t read_ready(int fd)
{
    char text[512], control[CMSG_SPACE(sizeof(struct ucred))];
    struct iovec data = { text, sizeof text - 1 };
    struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
                              .msg_controllen = sizeof control };
    ssize_t got;
    while ((got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC)) >= 0) {
        text[got] = 0;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        if (head && head->cmsg_type == SCM_CREDENTIALS && strstr(text, "READY=1"))
            return ((struct ucred *)CMSG_DATA(head))->pid;
        message.msg_controllen = sizeof control;
    }
    return 0;
}

static void say_ready(void)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    if (!path || strlen(path) >= sizeof to.sun_path)
        return;
    memcpy(to.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sendto(fd, "READY=1", 7, 0, (struct sockaddr *)&to, sizeof to);
    close(fd);
}

static int reap(pid_t wanted)
{
    int status, code = -1;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (pid == wanted)
            code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return code;
}

static int run_init(int signal_fd)
{
    sockets = 0;
    pid_t child = spawn();
    for (;;) {
        struct signalfd_siginfo info;
        if (read(signal_fd, &info, sizeof info) != sizeof info)
            continue;
        if (info.ssi_signo != SIGCHLD) {
            kill(child, info.ssi_signo);
            continue;
        }
        int code = reap(child);
        if (code >= 0)
            return code;
    }
}

static void wait_for_traffic(void)
{
    struct pollfd *set = calloc(sockets, sizeof *set);
    for (int i = 0; i < sockets; i++)
        set[i] = (struct pollfd){ FIRST + i, POLLIN, 0 };
    poll(set, sockets, -1);
    free(set);
}

static void loop(int signal_fd, int notify_fd, int units)
{
    pid_t *all = calloc(units, sizeof *all);
    int ready = 0;
    for (int i = 0; i < units; i++)
        all[i] = spawn();
    serving = all[0];
    for (;;) {
        struct pollfd set[2] = { { notify_fd, POLLIN, 0 }, { signal_fd, POLLIN, 0 } };
        poll(set, 2, -1);
        for (pid_t pid; (pid = read_ready(notify_fd)) > 0;) {
            if (pid == starting) {
                kill(serving, SIGTERM);
                serving = starting;
                starting = 0;
            } else if (++ready == units) {
                say_ready();
            }
        }
        struct signalfd_siginfo info;
        if (!(set[1].revents & POLLIN) || read(signal_fd, &info, sizeof info) != sizeof info)
            continue;
        if (info.ssi_signo == SIGCHLD) {
            reap(0);
        } else if (info.ssi_signo == SIGHUP) {
            starting = spawn();
        } else {
            for (int i = 0; i < units; i++)
                kill(i == 0 ? serving : all[i], SIGTERM);
            while (waitpid(-1, NULL, 0) > 0)
                ;
            exit(0);
        }
    }
}

int main(int count, char **arguments)
{
    int option, port = 8080, units = 1, lazy = 0, init = 0;
    sockets = 1;
    while ((option = getopt(count, arguments, "+p:n:u:li")) >= 0) {
        if (option == 'p')
            port = atoi(optarg);
        else if (option == 'n')
            sockets = atoi(optarg);
        else if (option == 'u')
            units = atoi(optarg);
        else if (option == 'l')
            lazy = 1;
        else if (option == 'i')
            init = 1;
        else
            return 2;
    }
    command = arguments + optind;
    if (!command[0] || sockets > MAX_SOCKETS)
        return 2;
    sigemptyset(&nothing);
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
    int notify_fd = bind_notify();
    make_environment();
    if (init)
        return run_init(signal_fd);
    bind_all(port);
    if (lazy)
        wait_for_traffic();
    loop(signal_fd, notify_fd, units);
}
