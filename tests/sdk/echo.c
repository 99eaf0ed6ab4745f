/* Prints the state that it gets, and gives the same when it is asked. C and C++. */
#include "aeterna.h"

static aeterna_frames frames;

static void show(const char *word, const aeterna_frames *given) {
    printf("%s", word);
    for (size_t i = 0; given && i < given->count; i++) {
        const aeterna_frame *f = &given->frames[i];
        printf(" %02x:", f->kind);
        for (size_t b = 0; b < f->size; b++) printf("%02x", f->payload[b]);
        printf(":%zu", f->fd_count);
    }
    printf("\n");
    fflush(stdout);
}

static int apply(const aeterna_frames *given, void *context) {
    (void)context;
    const char *text = (const char *)given->frames[0].payload;
    return strcmp(text, "refuse me") == 0 || strcmp(text, "choke on me") == 0;
}

static void save(aeterna_writer *writer, void *context) {
    (void)context;
    if (frames.count && strcmp((const char *)frames.frames[0].payload, "lose me") == 0) {
        aeterna_refuse(writer, "not \"this\" one");
    }
    for (size_t i = 0; i < frames.count; i++) {
        const aeterna_frame *f = &frames.frames[i];
        aeterna_give(writer, f->kind, f->payload, f->size, f->fds, f->fd_count);
    }
}

static void resume(aeterna_frames *given, void *context) {
    (void)context;
    show("resumed", given);
}

static void commit(void *context) {
    (void)context;
    printf("committed\n");
    fflush(stdout);
    _exit(0);
}

int main(void) {
    static aeterna_state state;
    aeterna_keeper keeper = {save, resume, commit, NULL};
    aeterna_state_init(&state, NULL);
    aeterna_load(&state, apply, NULL, &frames);
    show("loaded", &frames);
    aeterna_ready();
    aeterna_status("loaded");
    aeterna_keep(&state, &keeper);
    while (getchar() != EOF) continue;
    return 0;
}
