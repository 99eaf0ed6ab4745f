/*
 * Aeterna for services in C++ (C++17): objects on top of aeterna.h, headers only.
 *
 *     aeterna::state state;
 *     aeterna::listener listener = state.listen("http", "127.0.0.1:8080");
 *     state.load([&](const aeterna::frames &given) { count = std::stoul(given.at(0).text()); });
 *     state.keep([&] { return aeterna::frames{aeterna::frame::json(std::to_string(count))}; });
 *     aeterna::ready();
 *     ...
 *     aeterna::connection connection = listener.accept();        // nothing while the state changes hands
 *     state.request(connection, [&] { count++; });               // around what changes the state; then answer
 *
 * Everything works without aeternad too. Failures of the system are std::system_error. The protocol is described in
 * aeterna-srp(7).
 */
#ifndef AETERNA_HPP
#define AETERNA_HPP

#include "aeterna.h"

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace aeterna {

/* The state is being handed over, or is a newer generation's: what was asked for was not done, or is not known to be in
 * what was handed over. Do not tell the client that it was done. */
struct handed_over : std::runtime_error {
    handed_over() : std::runtime_error("a newer generation has the state") {}
};

inline bool is_managed() { return aeterna_is_managed() != 0; }
inline int generation() {
    const char *text = getenv("AETERNA_GENERATION");
    return text ? atoi(text) : 0;
}
inline bool notify(const std::string &message) { return aeterna_notify(message.c_str()) > 0; }
inline bool ready() { return notify("READY=1"); }
inline bool stopping() { return notify("STOPPING=1"); }
inline bool reloading() { return aeterna_reloading() > 0; }
inline bool status(const std::string &text) { return aeterna_status(text.c_str()) > 0; }

[[noreturn]] inline void fail(const char *what) { throw std::system_error(errno, std::generic_category(), what); }

/* A descriptor that is closed in the end. */
class descriptor {
  public:
    explicit descriptor(int fd = -1) : fd_(fd) {}
    descriptor(descriptor &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    descriptor &operator=(descriptor &&other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~descriptor() {
        if (fd_ >= 0) ::close(fd_);
    }
    int get() const { return fd_; }
    int release() { return std::exchange(fd_, -1); }

  private:
    int fd_;
};

/* A piece of state; `fds` belong to a frame of the kind AETERNA_STATE_FD, whose payload is JSON about them. */
struct frame {
    int kind;
    std::string payload;
    std::vector<int> fds; /* to give: they stay open here; taken over: the service's own from then on */

    static frame json(std::string text) { return {AETERNA_STATE_JSON, std::move(text), {}}; }
    static frame bytes(std::string payload) { return {AETERNA_STATE_BYTES, std::move(payload), {}}; }
    static frame descriptors(std::string about, std::vector<int> fds) { return {AETERNA_STATE_FD, std::move(about), std::move(fds)}; }
    const std::string &text() const { return payload; }
};
using frames = std::vector<frame>;

/* An accepted connection: in hand until its first answer or its end, and from each request to its answer. It blocks. The state outlives
 * it. */
class connection {
  public:
    connection(aeterna_state *state, int fd) : state_(state), fd_(fd) {}
    connection(connection &&other) noexcept : state_(other.state_), fd_(std::exchange(other.fd_, -1)) {}
    connection &operator=(connection &&) = delete;
    ~connection() {
        if (fd_ >= 0) aeterna_close(state_, fd_);
    }
    int get() const { return fd_; }
    /* Appends what has come; false at the end. */
    bool read(std::string &to) {
        char buffer[4096];
        ssize_t got;
        do got = ::read(fd_, buffer, sizeof buffer);
        while (got < 0 && errno == EINTR);
        if (got < 0) fail("read");
        to.append(buffer, static_cast<size_t>(got));
        return got > 0;
    }
    void write(const std::string &text) {
        for (size_t done = 0; done < text.size();) {
            ssize_t sent = ::send(fd_, text.data() + done, text.size() - done, MSG_NOSIGNAL);
            if (sent < 0 && errno == EINTR) continue;
            if (sent < 0) fail("write");
            done += static_cast<size_t>(sent);
        }
        aeterna_answered(state_, fd_);
    }

  private:
    aeterna_state *state_;
    int fd_;
};

/* A listening socket with a gate. Open for as long as the program. */
class listener {
  public:
    listener(aeterna_state *state, int fd) : state_(state), fd_(fd) {}
    /* Waits for a connection. While the state changes hands there is none. */
    connection accept() {
        int fd = aeterna_accept(state_, fd_, 1);
        if (fd < 0) fail("accept");
        return connection(state_, fd);
    }
    /* The descriptor of a connection (for aeterna_close), or -1 if none waits. */
    int try_accept() { return aeterna_accept(state_, fd_, 0); }
    int poll_fd() const { return aeterna_poll_fd(state_, fd_); }
    int get() const { return fd_; }

  private:
    aeterna_state *state_;
    int fd_;
};

/* This generation's connection to aeternad's SRP socket, and the gate in front of the state. Callbacks run on a thread
 * of its own, which lives as long as the program: so does what is inside. */
class state {
  public:
    using apply_function = std::function<void(const frames &)>;
    using save_function = std::function<frames()>;
    using resume_function = std::function<void(const frames &)>;

    explicit state(const char *path = nullptr) : inside_(new inside) { aeterna_state_init(&inside_->c, path); }
    state(const state &) = delete;
    state &operator=(const state &) = delete;

    /* As aeterna_state_listener. */
    listener listen(const char *which, const char *fallback) {
        int fd = aeterna_state_listener(&inside_->c, which, fallback);
        if (fd < 0) fail(which);
        return listener(&inside_->c, fd);
    }

    /* Takes the older generation's state over; returns whether there is one. `apply` may refuse it by an exception. It
     * also gets what comes back from a newer generation that is rolled back, if keep() is given no `resume`. */
    bool load(apply_function apply) {
        aeterna_frames given;
        inside_->apply = std::move(apply);
        size_t count = aeterna_load(&inside_->c, &inside::on_apply, inside_, &given);
        for (size_t i = 0; i < given.count; i++) given.frames[i].fd_count = 0; /* apply has them */
        aeterna_frames_free(&given);
        return count > 0;
    }

    /* Gives the state to whoever asks for it. `resume` gets no frames if the state here is to be gone on with. */
    void keep(save_function save, resume_function resume = nullptr, std::function<void()> commit = nullptr) {
        inside_->save = std::move(save);
        inside_->resume = std::move(resume);
        inside_->commit = std::move(commit);
        aeterna_keeper keeper = {&inside::on_save, inside_->resume ? &inside::on_resume : nullptr, &inside::on_commit, inside_};
        if (aeterna_keep(&inside_->c, &keeper) < 0) fail("keep");
    }

    /* Does what changes the state. While the state changes hands it waits, and then throws handed_over; it also does
     * if the state was handed over before the end of it. Not nested. */
    template <class Work> auto request(const connection &whose, Work &&work) { return in_request(whose.get(), std::forward<Work>(work)); }
    template <class Work> auto request(Work &&work) { return in_request(-1, std::forward<Work>(work)); }

    bool is_handed_over() { return aeterna_handed_over(&inside_->c) != 0; }
    bool is_closing() { return aeterna_is_closing(&inside_->c) != 0; }
    aeterna_state *get() { return &inside_->c; }

  private:
    struct inside {
        aeterna_state c;
        apply_function apply;
        save_function save;
        resume_function resume;
        std::function<void()> commit;

        static frames copied(const aeterna_frames *given) {
            frames all;
            for (size_t i = 0; given && i < given->count; i++) {
                const aeterna_frame &f = given->frames[i];
                all.push_back({f.kind, std::string(reinterpret_cast<char *>(f.payload), f.size), std::vector<int>(f.fds, f.fds + f.fd_count)});
            }
            return all;
        }
        static int on_apply(const aeterna_frames *given, void *context) {
            inside *self = static_cast<inside *>(context);
            try {
                if (self->apply) self->apply(copied(given));
                return 0;
            } catch (const std::exception &error) {
                aeterna_log("the state is refused", error.what());
                return -1;
            }
        }
        static void on_save(aeterna_writer *writer, void *context) {
            try {
                for (const frame &f : static_cast<inside *>(context)->save())
                    aeterna_give(writer, f.kind, f.payload.data(), f.payload.size(), f.fds.data(), f.fds.size());
            } catch (const std::exception &error) {
                aeterna_refuse(writer, error.what());
            }
        }
        static void on_resume(aeterna_frames *given, void *context) {
            try {
                static_cast<inside *>(context)->resume(copied(given));
            } catch (const std::exception &error) {
                aeterna_log("the service could not resume", error.what());
            }
            for (size_t i = 0; given && i < given->count; i++) given->frames[i].fd_count = 0;
        }
        static void on_commit(void *context) {
            inside *self = static_cast<inside *>(context);
            if (self->commit) self->commit();
        }
    };

    /* Ends the request in any case, and says whether the client may be told. */
    struct guard {
        aeterna_request request;
        bool open = true;
        guard(aeterna_state *state, int connection) {
            if (aeterna_begin(state, &request, connection) < 0) {
                if (errno == ESHUTDOWN) throw handed_over();
                fail("request");
            }
        }
        void end() {
            open = false;
            if (aeterna_end(&request) < 0) throw handed_over();
        }
        ~guard() {
            if (open) aeterna_end(&request);
        }
    };

    template <class Work> auto in_request(int connection, Work &&work) {
        guard open(&inside_->c, connection);
        if constexpr (std::is_void_v<decltype(work())>) {
            work();
            open.end();
        } else {
            auto result = work();
            open.end();
            return result;
        }
    }

    inside *inside_; /* never freed: the thread has it */
};

} // namespace aeterna

#endif
