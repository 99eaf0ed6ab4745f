/*
 * Aeterna for services in C (C99) and C++ (C++11): one header, Linux, nothing but libc and pthreads.
 *
 *     static int apply(const aeterna_frames *f, void *context) { memcpy(&count, f->frames[0].payload, sizeof count); return 0; }
 *     static void save(aeterna_writer *w, void *context) { aeterna_give(w, AETERNA_STATE_BYTES, &count, sizeof count, NULL, 0); }
 *
 *     static aeterna_state state;
 *     aeterna_frames frames;
 *     aeterna_state_init(&state, NULL);
 *     int fd = aeterna_state_listener(&state, "http", "127.0.0.1:8080");
 *     aeterna_load(&state, apply, NULL, &frames);     // frames.count is 0 if there is nothing
 *     aeterna_keeper keeper = {save, NULL, NULL, NULL};
 *     aeterna_keep(&state, &keeper);
 *     aeterna_ready();
 *     ...
 *     int connection = aeterna_accept(&state, fd, 1); // accepts nothing while the state changes hands
 *     aeterna_request request;
 *     if (aeterna_begin(&state, &request, connection) < 0) ... // around what changes the state
 *     count++;
 *     if (aeterna_end(&request) == 0) ...             // then answer
 *     aeterna_answered(&state, connection);
 *     aeterna_close(&state, connection);
 *
 * Everything works without aeternad too: sockets are then bound here, notices go nowhere, and there is no state.
 * A state that cannot be loaded is no state and a line on standard error that begins with "[Aeterna-SDK]".
 * Functions return -1 and set errno if they fail. The protocol is described in aeterna-srp(7).
 */
#ifndef AETERNA_H
#define AETERNA_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* MSG_CMSG_CLOEXEC, SOCK_CLOEXEC */
#endif

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

#define AETERNA_VERSION "0.1.0"

#define AETERNA_API static __attribute__((unused))

enum { AETERNA_STATE_JSON = 0x02, AETERNA_STATE_PROTOBUF = 0x03, AETERNA_STATE_BYTES = 0x04, AETERNA_STATE_FD = 0x05 };
enum { AETERNA_MAX_FDS = 253, AETERNA_MAX_LISTENERS = 16 };

/* A piece of state. The descriptors belong to an AETERNA_STATE_FD frame, whose payload is JSON about them. */
typedef struct {
    int kind;
    unsigned char *payload; /* `size` bytes, and a zero behind them */
    size_t size;
    int *fds;
    size_t fd_count;
} aeterna_frame;

typedef struct {
    aeterna_frame *frames;
    size_t count;
} aeterna_frames;

/* This generation's connection to aeternad's SRP socket, and the gate in front of the state. */
typedef struct {
    const char *path; /* NULL: there is no aeternad and no state */
    int fd;           /* -1 until there is a connection */
    int standing;     /* 0: the state is this generation's; 1: it was asked for; 2: it is a newer one's */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int (*apply)(const aeterna_frames *frames, void *context); /* what aeterna_load was given */
    void *apply_context;
    /* How long requests may take to end when the state is asked for, in milliseconds: 3000, less than `Timeout` of
     * [State], which is 5 s. May be changed before aeterna_keep. */
    int patience;
    pid_t pid;   /* the process that keeps the state */
    int phase;   /* 0: open; 1: accepts nothing more; 2: no request begins; 3: closed for good */
    int pipe[2]; /* a byte in it: something has ended */
    size_t listeners, fresh_room, fresh_count, requests;
    int listener[AETERNA_MAX_LISTENERS], gate[AETERNA_MAX_LISTENERS];
    unsigned char *fresh; /* by descriptor: an accepted connection that has not been answered yet */
    unsigned long saves, replaced;
} aeterna_state;

/* Something that changes the state, from aeterna_begin to aeterna_end. */
typedef struct {
    aeterna_state *state;
    unsigned long began;
} aeterna_request;

/* Where a save callback writes to. */
typedef struct {
    int fd;
    int failed; /* 1: the connection is over; 2: aeterna_refuse */
    unsigned long long frames, bytes;
} aeterna_writer;

/* Whoever has the state while the service runs; called on a thread of its own. Only `save` is needed. */
typedef struct {
    /* A newer generation is about to take over: aeterna_give the state. The gate is closed; what does not go through
     * it must change nothing any more. */
    void (*save)(aeterna_writer *writer, void *context);
    /* The handover was given up: serve on, with these frames if they are not NULL. They are freed afterwards;
     * descriptors that are wanted are replaced by -1 in them. The gate opens afterwards. NULL: what aeterna_load was
     * given takes the frames. */
    void (*resume)(aeterna_frames *frames, void *context);
    /* The state is the newer generation's for good: do not store it when the stop signal comes. */
    void (*commit)(void *context);
    void *context;
} aeterna_keeper;

AETERNA_API void aeterna_log(const char *what, const char *why) { fprintf(stderr, "[Aeterna-SDK] %s: %s\n", what, why); }

AETERNA_API int aeterna_is(const char *name, const char *value) {
    const char *have = getenv(name);
    return have && strcmp(have, value) == 0;
}

/* Whether aeternad has started this program. */
AETERNA_API int aeterna_is_managed(void) { return aeterna_is("AETERNA_MANAGED", "1"); }

/* ---- Sockets: sd_listen_fds(3) ---- */

/* How many descriptors were inherited: they are 3, 4… and now close-on-exec. */
AETERNA_API int aeterna_listen_fds(void) {
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    int fds = pid && count && atol(pid) == (long)getpid() ? atoi(count) : 0;
    for (int fd = 3; fd < 3 + fds; fd++) fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fds;
}

AETERNA_API int aeterna_bind(const char *address) {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un path;
    } to;
    socklen_t size;
    char host[64] = "";
    const char *colon = strrchr(address, ':');
    int one = 1;
    memset(&to, 0, sizeof to);
    if (strchr(address, '/')) {
        if (strlen(address) >= sizeof to.path.sun_path) return errno = ENAMETOOLONG, -1;
        to.path.sun_family = AF_UNIX;
        memcpy(to.path.sun_path, address, strlen(address));
        size = sizeof to.path;
    } else {
        size_t length = colon ? (size_t)(colon - address) : sizeof host;
        if (length >= sizeof host) return errno = EINVAL, -1;
        memcpy(host, address, length);
        if (host[0] == '[' && host[length - 1] == ']') {
            host[length - 1] = 0;
            to.v6.sin6_family = AF_INET6;
            to.v6.sin6_port = htons((uint16_t)atoi(colon + 1));
            if (inet_pton(AF_INET6, host + 1, &to.v6.sin6_addr) != 1) return errno = EINVAL, -1;
            size = sizeof to.v6;
        } else {
            to.v4.sin_family = AF_INET;
            to.v4.sin_port = htons((uint16_t)atoi(colon + 1));
            if (inet_pton(AF_INET, host, &to.v4.sin_addr) != 1) return errno = EINVAL, -1;
            size = sizeof to.v4;
        }
    }
    int fd = socket(to.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, &to.any, size) == 0 && listen(fd, 4096) == 0) return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* The listening socket of that name, or at that place ("0", "1"…), in the unit; without aeternad one that is
 * bound to `fallback`: "127.0.0.1:8080", "[::1]:8080" or a path. ENOENT: the unit has no such socket. */
AETERNA_API int aeterna_listener(const char *which, const char *fallback) {
    int count = aeterna_listen_fds();
    const char *name = getenv("LISTEN_FDNAMES");
    for (int i = 0; i < count; i++) {
        size_t length = name ? strcspn(name, ":") : 0;
        char place[16];
        snprintf(place, sizeof place, "%d", i);
        if ((name && strlen(which) == length && memcmp(which, name, length) == 0) || strcmp(which, place) == 0) return 3 + i;
        if (name) name += length + (name[length] == ':');
    }
    if (count || aeterna_is_managed()) return errno = ENOENT, -1;
    return aeterna_bind(fallback);
}

/* ---- Notices: sd_notify(3) ---- */

/* KEY=value lines to the supervisor: 1 if they were sent, 0 if there is none. */
AETERNA_API int aeterna_notify(const char *message) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to;
    if (!path || !*path) return 0;
    size_t length = strlen(path);
    memset(&to, 0, sizeof to);
    if (length >= sizeof to.sun_path) return errno = ENAMETOOLONG, -1;
    to.sun_family = AF_UNIX;
    memcpy(to.sun_path, path, length);
    if (path[0] == '@') to.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    ssize_t sent = sendto(fd, message, strlen(message), MSG_NOSIGNAL, (struct sockaddr *)&to, size);
    int error = errno;
    close(fd);
    errno = error;
    return sent < 0 ? -1 : 1;
}

/* The service serves. */
AETERNA_API int aeterna_ready(void) { return aeterna_notify("READY=1"); }

/* The service is about to end. */
AETERNA_API int aeterna_stopping(void) { return aeterna_notify("STOPPING=1"); }

/* The service rereads its configuration by itself; aeterna_ready ends that. */
AETERNA_API int aeterna_reloading(void) {
    struct timespec now;
    char text[80];
    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    return aeterna_notify(text);
}

/* One line for `aeternactl status`, at most 500 bytes of it. */
AETERNA_API int aeterna_status(const char *text) {
    char line[512];
    snprintf(line, sizeof line, "STATUS=%.500s", text);
    for (char *c = line; *c; c++)
        if (*c == '\n') *c = ' ';
    return aeterna_notify(line);
}

/* ---- State ---- */

enum { AETERNA_HELLO_ = 0x01, AETERNA_REQUEST_ = 0x10, AETERNA_RESUME_ = 0x11, AETERNA_COMMIT_ = 0x12, AETERNA_ERROR_ = 0xFE, AETERNA_FINISHED_ = 0xFF };

AETERNA_API void aeterna_frame_free(aeterna_frame *frame) {
    for (size_t i = 0; i < frame->fd_count; i++)
        if (frame->fds[i] >= 0) close(frame->fds[i]);
    free(frame->fds);
    free(frame->payload);
    memset(frame, 0, sizeof *frame);
}

/* Frees frames, and closes their descriptors but those that were replaced by -1. */
AETERNA_API void aeterna_frames_free(aeterna_frames *frames) {
    for (size_t i = 0; i < frames->count; i++) aeterna_frame_free(&frames->frames[i]);
    free(frames->frames);
    frames->frames = NULL;
    frames->count = 0;
}

/* One frame; the descriptors go with its first byte. */
AETERNA_API int aeterna_write_(int fd, int kind, const void *payload, size_t size, const int *fds, size_t fd_count) {
    unsigned char head[12] = {0, 0, 0, 0, 0xAE, 0x7E, 0x20, 0x24, 1, 0, 0, 0};
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(AETERNA_MAX_FDS * sizeof(int))];
    } control;
    if (size > 0xFFFFFFFFu - 8 || fd_count > AETERNA_MAX_FDS) return errno = EMSGSIZE, -1;
    uint32_t length = htonl((uint32_t)size + 8);
    memcpy(head, &length, 4);
    head[9] = (unsigned char)kind;
    struct iovec parts[2];
    parts[0].iov_base = head;
    parts[0].iov_len = sizeof head;
    parts[1].iov_base = (void *)(uintptr_t)payload;
    parts[1].iov_len = size;
    struct msghdr message;
    memset(&message, 0, sizeof message);
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    if (fd_count) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(rights), fds, fd_count * sizeof(int));
    }
    while (parts[0].iov_len + parts[1].iov_len) {
        ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return -1;
        message.msg_control = NULL;
        message.msg_controllen = 0;
        for (int i = 0; i < 2; i++) {
            size_t gone = (size_t)sent < parts[i].iov_len ? (size_t)sent : parts[i].iov_len;
            parts[i].iov_base = (char *)parts[i].iov_base + gone;
            parts[i].iov_len -= gone;
            sent -= (ssize_t)gone;
        }
    }
    return 0;
}

/* So many bytes, and the descriptors that come with them. */
AETERNA_API int aeterna_exactly_(int fd, unsigned char *to, size_t count, aeterna_frame *frame) {
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(AETERNA_MAX_FDS * sizeof(int))];
    } control;
    while (count) {
        struct iovec part;
        struct msghdr message;
        memset(&message, 0, sizeof message);
        part.iov_base = to;
        part.iov_len = count;
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
            if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
            size_t more = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            int *fds = (int *)realloc(frame->fds, (frame->fd_count + more) * sizeof(int));
            if (!fds) return -1;
            frame->fds = fds;
            memcpy(fds + frame->fd_count, CMSG_DATA(c), more * sizeof(int));
            frame->fd_count += more;
        }
        if (message.msg_flags & MSG_CTRUNC) return errno = EMFILE, -1;
        if (got == 0) return errno = ECONNRESET, -1;
        to += got;
        count -= (size_t)got;
    }
    return 0;
}

AETERNA_API int aeterna_is_state_(int kind) { return kind >= AETERNA_STATE_JSON && kind <= AETERNA_STATE_FD; }

AETERNA_API int aeterna_is_control_(int kind) {
    return kind == AETERNA_HELLO_ || (kind >= AETERNA_REQUEST_ && kind <= AETERNA_COMMIT_) || kind >= AETERNA_ERROR_;
}

/* The next frame. Reads no byte of the one after it, whose descriptors would come along. */
AETERNA_API int aeterna_read_(int fd, aeterna_frame *frame) {
    static const unsigned char magic[4] = {0xAE, 0x7E, 0x20, 0x24};
    unsigned char head[12];
    uint32_t length;
    const char *wrong = NULL;
    memset(frame, 0, sizeof *frame);
    if (aeterna_exactly_(fd, head, sizeof head, frame) < 0) goto failed;
    memcpy(&length, head, 4);
    length = ntohl(length);
    frame->kind = head[9];
    if (memcmp(head + 4, magic, 4)) wrong = "{\"code\":\"bad_magic\",\"message\":\"another magic\"}";
    else if (head[8] != 1) wrong = "{\"code\":\"bad_version\",\"message\":\"only version 1 is known here\"}";
    else if (length < 8) wrong = "{\"code\":\"bad_length\",\"message\":\"a length below 8\"}";
    else if (!aeterna_is_state_(frame->kind) && !aeterna_is_control_(frame->kind)) wrong = "{\"code\":\"bad_type\",\"message\":\"a type that is not known\"}";
    else if (head[10] || head[11]) wrong = "{\"code\":\"bad_reserved\",\"message\":\"the reserved field is not 0\"}";
    else if (aeterna_is_control_(frame->kind) && length - 8 > 65536) wrong = "{\"code\":\"too_long\",\"message\":\"a control frame above 64 KiB\"}";
    if (wrong) {
        aeterna_write_(fd, AETERNA_ERROR_, wrong, strlen(wrong), NULL, 0);
        errno = EPROTO;
        goto failed;
    }
    length -= 8;
    /* Memory grows with what has come, not with what was announced. */
    for (size_t room = 65536;; room *= 2) {
        if (room > length) room = length;
        unsigned char *payload = (unsigned char *)realloc(frame->payload, room + 1);
        if (!payload) goto failed;
        frame->payload = payload;
        payload[room] = 0;
        if (aeterna_exactly_(fd, payload + frame->size, room - frame->size, frame) < 0) goto failed;
        frame->size = room;
        if (room == length) return 0;
    }
failed: {
    int error = errno;
    aeterna_frame_free(frame);
    errno = error;
    return -1;
}
}

/* As aeterna_read_, but the frame that has been read already comes first. */
AETERNA_API int aeterna_next_(int fd, aeterna_frame *frame, aeterna_frame *early) {
    if (!early->kind) return aeterna_read_(fd, frame);
    *frame = *early;
    memset(early, 0, sizeof *early);
    return 0;
}

/* Frames up to FINISHED. */
AETERNA_API int aeterna_receive_(int fd, aeterna_frames *frames, aeterna_frame *early) {
    for (;;) {
        aeterna_frame frame;
        if (aeterna_next_(fd, &frame, early) < 0) break;
        if (frame.kind == AETERNA_HELLO_) {
            aeterna_frame_free(&frame);
            continue;
        }
        if (aeterna_is_state_(frame.kind)) {
            aeterna_frame *more = (aeterna_frame *)realloc(frames->frames, (frames->count + 1) * sizeof frame);
            if (!more) {
                aeterna_frame_free(&frame);
                break;
            }
            frames->frames = more;
            more[frames->count++] = frame;
            continue;
        }
        if (frame.kind == AETERNA_FINISHED_) {
            aeterna_frame_free(&frame);
            return 0;
        }
        if (frame.kind == AETERNA_ERROR_) aeterna_log("aeternad reports", (const char *)frame.payload);
        aeterna_frame_free(&frame);
        errno = EPROTO;
        break;
    }
    int error = errno;
    aeterna_frames_free(frames);
    errno = error;
    return -1;
}

/* aeternad's HELLO comes later if it has taken the role for granted meanwhile: `early` is what has come. */
AETERNA_API int aeterna_greet_(const char *path, const char *hello, aeterna_frame *early) {
    struct sockaddr_un to;
    memset(early, 0, sizeof *early);
    if (strlen(path) >= sizeof to.sun_path) return errno = ENAMETOOLONG, -1;
    memset(&to, 0, sizeof to);
    to.sun_family = AF_UNIX;
    memcpy(to.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0 && aeterna_write_(fd, AETERNA_HELLO_, hello, strlen(hello), NULL, 0) == 0 &&
        aeterna_read_(fd, early) == 0) {
        if (early->kind != AETERNA_ERROR_) return fd;
        aeterna_log("aeternad reports", (const char *)early->payload);
        aeterna_frame_free(early);
        memset(early, 0, sizeof *early);
        errno = EPROTO;
    }
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* `path` NULL: the socket that AETERNA_STATE_SOCK names. */
AETERNA_API void aeterna_state_init(aeterna_state *state, const char *path) {
    memset(state, 0, sizeof *state);
    state->path = path ? path : getenv("AETERNA_STATE_SOCK");
    state->fd = -1;
    state->patience = 3000;
    state->pid = getpid();
    state->pipe[0] = state->pipe[1] = -1;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&state->mutex, NULL);
    pthread_cond_init(&state->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

AETERNA_API long long aeterna_now_(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* ---- The gate: from REQUEST to RESUME nothing is accepted and no request begins ---- */

enum { AETERNA_OPEN_, AETERNA_CLOSING_, AETERNA_CLOSED_, AETERNA_GONE_ };
enum { AETERNA_GRACE_ = 500 }; /* ms for connections that say nothing */

/* With the mutex: the listeners are where poll can see them only while the gate is open. */
AETERNA_API void aeterna_switch_(aeterna_state *state, size_t i, int on) {
    struct epoll_event in;
    memset(&in, 0, sizeof in);
    in.events = EPOLLIN;
    epoll_ctl(state->gate[i], on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, state->listener[i], &in);
}

AETERNA_API void aeterna_phase_(aeterna_state *state, int phase) {
    pthread_mutex_lock(&state->mutex);
    for (size_t i = 0; i < state->listeners; i++) aeterna_switch_(state, i, phase == AETERNA_OPEN_);
    state->phase = phase;
    pthread_cond_broadcast(&state->changed);
    pthread_mutex_unlock(&state->mutex);
}

/* As aeterna_listener, but with a gate: aeterna_accept gives none of its connections from the time when the state is
 * asked for until the handover is given up. The listener does not block; other processes have the same queue. */
AETERNA_API int aeterna_state_listener(aeterna_state *state, const char *which, const char *fallback) {
    int fd = aeterna_listener(which, fallback), gate, flags;
    if (fd < 0) return -1;
    flags = fcntl(fd, F_GETFL);
    gate = epoll_create1(EPOLL_CLOEXEC);
    if (gate < 0 || flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) return -1;
    pthread_mutex_lock(&state->mutex);
    int fits = state->listeners < AETERNA_MAX_LISTENERS;
    if (fits) {
        state->listener[state->listeners] = fd;
        state->gate[state->listeners] = gate;
        if (state->phase == AETERNA_OPEN_) aeterna_switch_(state, state->listeners, 1);
        state->listeners++;
    }
    pthread_mutex_unlock(&state->mutex);
    if (!fits) close(gate);
    return fits ? fd : (errno = EMFILE, -1);
}

/* A descriptor for poll: readable when aeterna_accept of this listener has a connection. */
AETERNA_API int aeterna_poll_fd(const aeterna_state *state, int listener) {
    for (size_t i = 0; i < state->listeners; i++)
        if (state->listener[i] == listener) return state->gate[i];
    return errno = EBADF, -1;
}

/* A connection, close-on-exec. It is in hand until aeterna_answered or aeterna_close, and again from the beginning of
 * a request. `wait` 0: EAGAIN if there is none. */
AETERNA_API int aeterna_accept(aeterna_state *state, int listener, int wait) {
    struct pollfd gate;
    gate.fd = aeterna_poll_fd(state, listener);
    gate.events = POLLIN;
    if (gate.fd < 0) return -1;
    for (;;) {
        int fd = -1, error = EAGAIN;
        pthread_mutex_lock(&state->mutex);
        if (state->phase == AETERNA_OPEN_) {
            fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            error = errno;
            if (fd >= 0 && (size_t)fd >= state->fresh_room) {
                size_t room = (size_t)fd * 2 + 64;
                unsigned char *more = (unsigned char *)realloc(state->fresh, room);
                if (more) {
                    memset(more + state->fresh_room, 0, room - state->fresh_room);
                    state->fresh = more;
                    state->fresh_room = room;
                }
            }
            if (fd >= 0 && (size_t)fd < state->fresh_room && !state->fresh[fd]) {
                state->fresh[fd] = 1;
                state->fresh_count++;
            }
        }
        pthread_mutex_unlock(&state->mutex);
        if (fd >= 0) return fd;
        if (error == ECONNABORTED || error == EINTR) continue;
        if (error != EAGAIN || !wait) return errno = error, -1;
        if (poll(&gate, 1, -1) < 0 && errno != EINTR) return -1;
    }
}

/* With the mutex. */
AETERNA_API void aeterna_less_(aeterna_state *state, int connection, size_t requests) {
    if (connection >= 0 && (size_t)connection < state->fresh_room && state->fresh[connection]) {
        state->fresh[connection] = 0;
        state->fresh_count--;
    }
    state->requests -= requests;
    /* A full pipe has bytes enough. */
    if (state->phase != AETERNA_OPEN_ && state->pipe[1] >= 0 && write(state->pipe[1], "!", 1) < 0) return;
}

/* After an answer was written: the connection is not waited for any more, until its next request. */
AETERNA_API void aeterna_answered(aeterna_state *state, int connection) {
    pthread_mutex_lock(&state->mutex);
    aeterna_less_(state, connection, 0);
    pthread_mutex_unlock(&state->mutex);
}

/* Closes a connection of aeterna_accept. */
AETERNA_API int aeterna_close(aeterna_state *state, int connection) {
    aeterna_answered(state, connection);
    return close(connection);
}

/* With the mutex: waits for another phase; 0 when the time is over. */
AETERNA_API int aeterna_changes_(aeterna_state *state, long long until) {
    struct timespec at;
    at.tv_sec = (time_t)(until / 1000);
    at.tv_nsec = (long)(until % 1000) * 1000000;
    return pthread_cond_timedwait(&state->changed, &state->mutex, &at) == 0;
}

/* Before something changes the state; `connection` is whose it is, or -1. While the state changes hands this waits,
 * for the patience at most: then errno is ESHUTDOWN, and a newer generation has the state. Requests are not nested. */
AETERNA_API int aeterna_begin(aeterna_state *state, aeterna_request *request, int connection) {
    long long until = aeterna_now_() + state->patience;
    if (getpid() != state->pid) return errno = ECHILD, -1;
    pthread_mutex_lock(&state->mutex);
    while (state->phase == AETERNA_CLOSED_ && aeterna_changes_(state, until)) continue;
    int good = state->phase <= AETERNA_CLOSING_;
    if (good) {
        state->requests++;
        if (connection >= 0 && (size_t)connection < state->fresh_room && !state->fresh[connection]) {
            state->fresh[connection] = 1;
            state->fresh_count++;
        }
    }
    request->state = state;
    request->began = state->saves;
    pthread_mutex_unlock(&state->mutex);
    return good ? 0 : (errno = ESHUTDOWN, -1);
}

/* After it, and before the client is told. -1 with ESHUTDOWN: the state was handed over meanwhile, and what was
 * done may not be in it; do not say that it was done. */
AETERNA_API int aeterna_end(aeterna_request *request) {
    aeterna_state *state = request->state;
    long long until = aeterna_now_() + state->patience;
    pthread_mutex_lock(&state->mutex);
    aeterna_less_(state, -1, 1);
    int good = state->saves == request->began;
    if (!good) {
        while (state->phase == AETERNA_CLOSED_ && aeterna_changes_(state, until)) continue;
        good = state->phase <= AETERNA_CLOSING_ && state->replaced <= request->began;
    }
    pthread_mutex_unlock(&state->mutex);
    return good ? 0 : (errno = ESHUTDOWN, -1);
}

/* Whether the state was asked for: a server may then ask its clients to connect again. */
AETERNA_API int aeterna_is_closing(aeterna_state *state) {
    pthread_mutex_lock(&state->mutex);
    int closing = state->phase != AETERNA_OPEN_;
    pthread_mutex_unlock(&state->mutex);
    return closing;
}

/* Waits until `count` is 0; returns 0 if aeternad has said something before. */
AETERNA_API int aeterna_await_(aeterna_state *state, const size_t *count, long long until) {
    for (;;) {
        struct pollfd ends[2];
        char bytes[256];
        pthread_mutex_lock(&state->mutex);
        size_t left = *count;
        pthread_mutex_unlock(&state->mutex);
        long long time = until - aeterna_now_();
        if (!left || time <= 0) return 1;
        memset(ends, 0, sizeof ends);
        ends[0].fd = state->fd;
        ends[1].fd = state->pipe[0];
        ends[0].events = ends[1].events = POLLIN;
        if (poll(ends, 2, (int)time) > 0) {
            if (ends[0].revents) return 0;
            if (read(state->pipe[0], bytes, sizeof bytes) < 0 && errno != EAGAIN && errno != EINTR) return 1;
        }
    }
}

/* Accepts nothing more, lets what is in hand end, and lets no other request begin; 0 if aeternad has said something
 * before that. */
AETERNA_API int aeterna_close_gate_(aeterna_state *state) {
    long long now = aeterna_now_(), until = now + state->patience;
    long long grace = now + (state->patience < AETERNA_GRACE_ ? state->patience : AETERNA_GRACE_);
    if (state->pipe[0] < 0 && pipe2(state->pipe, O_CLOEXEC | O_NONBLOCK) < 0) state->pipe[0] = state->pipe[1] = -1;
    aeterna_phase_(state, AETERNA_CLOSING_);
    if (!aeterna_await_(state, &state->fresh_count, grace)) return 0;
    aeterna_phase_(state, AETERNA_CLOSED_);
    if (!aeterna_await_(state, &state->requests, until)) return 0;
    pthread_mutex_lock(&state->mutex);
    state->saves++;
    size_t left = state->requests;
    pthread_mutex_unlock(&state->mutex);
    if (left) aeterna_log("requests have not ended in time", "what they do is not handed over");
    return 1;
}

AETERNA_API void aeterna_open_gate_(aeterna_state *state, int replaced) {
    pthread_mutex_lock(&state->mutex);
    if (replaced) state->replaced = state->saves;
    pthread_mutex_unlock(&state->mutex);
    aeterna_phase_(state, AETERNA_OPEN_);
}

AETERNA_API void aeterna_set_(aeterna_state *state, int standing) {
    pthread_mutex_lock(&state->mutex);
    state->standing = standing;
    pthread_cond_broadcast(&state->changed);
    pthread_mutex_unlock(&state->mutex);
}

/* Whether the state is a newer generation's for good: to be asked when the stop signal has come (not in its
 * handler), before anything is stored or said to clients. aeternad's word on it precedes the signal on another
 * way, so this waits, if the state was asked for, until that has been read. */
AETERNA_API int aeterna_handed_over(aeterna_state *state) {
    pthread_mutex_lock(&state->mutex);
    while (state->standing == 1) pthread_cond_wait(&state->changed, &state->mutex);
    int theirs = state->standing == 2;
    pthread_mutex_unlock(&state->mutex);
    return theirs;
}

/* Takes the older generation's state over; blocks until it is there. `apply` (may be NULL) may refuse the frames
 * by returning anything but 0; it is not called if there are none. It is also called with what comes back from a newer
 * generation that is rolled back, if the keeper has no `resume`: so it replaces what there is. Returns how many frames
 * there are in `frames`, which aeterna_frames_free frees; 0 also if the state cannot be had: then the log says why. */
AETERNA_API size_t aeterna_load(aeterna_state *state, int (*apply)(const aeterna_frames *, void *), void *context, aeterna_frames *frames) {
    static const char refused[] = "{\"code\":\"load_failed\",\"message\":\"the service refused the state\"}";
    frames->frames = NULL;
    frames->count = 0;
    state->apply = apply;
    state->apply_context = context;
    if (!state->path) return 0;
    aeterna_frame early;
    int fd = aeterna_greet_(state->path, "{\"role\":\"sink\"}", &early);
    const char *why = NULL;
    if (fd < 0 || aeterna_receive_(fd, frames, &early) < 0) why = strerror(errno);
    else if (frames->count && apply && apply(frames, context) != 0) {
        why = "the service refused it";
        aeterna_write_(fd, AETERNA_ERROR_, refused, strlen(refused), NULL, 0);
    } else if (aeterna_write_(fd, AETERNA_FINISHED_, NULL, 0, NULL, 0) < 0) why = strerror(errno);
    if (!why) {
        state->fd = fd;
        return frames->count;
    }
    aeterna_log("no state was taken over, beginning with none", why);
    aeterna_frames_free(frames);
    if (fd >= 0) close(fd);
    return 0;
}

/* In a save callback: one frame of state. The descriptors (at most AETERNA_MAX_FDS, with AETERNA_STATE_FD and JSON
 * about them) stay open here. After a failure the rest is not sent. */
AETERNA_API int aeterna_give(aeterna_writer *writer, int kind, const void *payload, size_t size, const int *fds, size_t fd_count) {
    if (writer->failed) return errno = EPIPE, -1;
    if (aeterna_write_(writer->fd, kind, payload, size, fds, fd_count) < 0) {
        writer->failed = 1;
        return -1;
    }
    writer->frames++;
    writer->bytes += size;
    return 0;
}

/* In a save callback: there is no state to be had, and the handover is given up. `why` is for people. */
AETERNA_API int aeterna_refuse(aeterna_writer *writer, const char *why) {
    static const char head[] = "{\"code\":\"save_failed\",\"message\":\"";
    char text[600];
    if (writer->failed) return errno = EPIPE, -1;
    snprintf(text, sizeof text, "%s%.500s", head, why);
    for (char *c = text + sizeof head - 1; *c; c++)
        if ((unsigned char)*c < ' ' || *c == '"' || *c == '\\') *c = ' ';
    strcat(text, "\"}");
    writer->failed = aeterna_write_(writer->fd, AETERNA_ERROR_, text, strlen(text), NULL, 0) == 0 ? 2 : 1;
    return writer->failed == 2 ? 0 : -1;
}

AETERNA_API void aeterna_resume_(aeterna_state *state, const aeterna_keeper *keeper, aeterna_frames *given) {
    if (keeper->resume) keeper->resume(given, keeper->context);
    else if (given && state->apply && state->apply(given, state->apply_context) != 0) aeterna_log("what came back", "the service refused it");
    aeterna_open_gate_(state, given != NULL);
    aeterna_set_(state, 0);
}

/* Answers aeternad until the connection ends; returns whether a newer connection has its place. */
AETERNA_API int aeterna_answer_(aeterna_state *state, const aeterna_keeper *keeper, aeterna_frame *early) {
    int good = 1, replaced = 0, unanswered = 0;
    aeterna_frame frame;
    while (good && aeterna_next_(state->fd, &frame, early) == 0) {
        aeterna_frames given = {NULL, 0};
        if (frame.kind == AETERNA_HELLO_ && !unanswered) {
            aeterna_frame_free(&frame);
            continue;
        }
        if (frame.kind == AETERNA_REQUEST_ || frame.kind == AETERNA_HELLO_) {
            aeterna_writer writer = {state->fd, 0, 0, 0};
            char totals[80];
            aeterna_set_(state, 1);
            unanswered = !aeterna_close_gate_(state);
            if (unanswered) { /* RESUME is there already, or nobody any more */
                aeterna_frame_free(&frame);
                continue;
            }
            keeper->save(&writer, keeper->context);
            snprintf(totals, sizeof totals, "{\"frames\":%llu,\"bytes\":%llu}", writer.frames, writer.bytes);
            if (writer.failed != 2) good = !writer.failed && aeterna_write_(state->fd, AETERNA_FINISHED_, totals, strlen(totals), NULL, 0) == 0;
        } else if (frame.kind == AETERNA_RESUME_) {
            unanswered = 0;
            if (aeterna_receive_(state->fd, &given, early) == 0) good = aeterna_write_(state->fd, AETERNA_FINISHED_, NULL, 0, NULL, 0) == 0;
            aeterna_resume_(state, keeper, given.count ? &given : NULL);
            aeterna_frames_free(&given);
        } else if (frame.kind == AETERNA_COMMIT_) {
            aeterna_phase_(state, AETERNA_GONE_);
            if (keeper->commit) keeper->commit(keeper->context);
            aeterna_set_(state, 2);
        } else if (frame.kind == AETERNA_ERROR_) {
            if (strstr((const char *)frame.payload, "\"replaced\"")) replaced = 1;
            else aeterna_log("aeternad reports", (const char *)frame.payload);
            good = !replaced;
        } else if (frame.kind != AETERNA_FINISHED_) { /* the acknowledgement; COMMIT or RESUME will follow */
            errno = EPROTO;
            good = 0;
        }
        aeterna_frame_free(&frame);
    }
    return replaced;
}

/* Answers aeternad until the state is the newer generation's: for programs that bring their own thread. Whenever the
 * connection ends before that, it connects again. */
AETERNA_API void aeterna_serve(aeterna_state *state, const aeterna_keeper *keeper) {
    int quiet = 0; /* one line for each time that aeternad is away */
    if (!state->path) return;
    for (;;) {
        long long began = aeterna_now_();
        int replaced = 0, connected, error;
        aeterna_frame early;
        memset(&early, 0, sizeof early);
        if (state->fd < 0) state->fd = aeterna_greet_(state->path, "{\"role\":\"source\"}", &early);
        connected = state->fd >= 0;
        if (connected) {
            if (quiet) aeterna_log("aeternad", "connected again");
            quiet = 0;
            replaced = aeterna_answer_(state, keeper, &early);
        }
        error = errno;
        if (connected) close(state->fd);
        aeterna_frame_free(&early);
        state->fd = -1;
        if (state->standing == 1) aeterna_resume_(state, keeper, NULL);
        if (state->standing == 2 || replaced) return;
        if (!quiet) aeterna_log("the connection to aeternad is over, connecting again", strerror(error));
        quiet = 1;
        /* aeternad may be about to be started again, or somebody may end every connection at once. */
        struct timespec pause = {1, 0};
        if (connected && aeterna_now_() - began > 1000) pause.tv_sec = 0, pause.tv_nsec = 100000000;
        nanosleep(&pause, NULL);
    }
}

typedef struct {
    aeterna_state *state;
    aeterna_keeper keeper;
} aeterna_work_;

AETERNA_API void *aeterna_thread_(void *argument) {
    aeterna_work_ work = *(aeterna_work_ *)argument;
    free(argument);
    aeterna_serve(work.state, &work.keeper);
    return NULL;
}

/* Gives the state to whoever asks for it, on a thread of its own. `state` must live as long as the program. */
AETERNA_API int aeterna_keep(aeterna_state *state, const aeterna_keeper *keeper) {
    pthread_t thread;
    aeterna_work_ *work = (aeterna_work_ *)malloc(sizeof *work);
    if (!work) return -1;
    work->state = state;
    work->keeper = *keeper;
    int error = pthread_create(&thread, NULL, aeterna_thread_, work);
    if (error) {
        free(work);
        return errno = error, -1;
    }
    pthread_detach(thread);
    return 0;
}

#ifdef __cplusplus
}
#endif

#endif
