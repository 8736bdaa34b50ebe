/* What io_uring would save of a fan-out: 1,000 loopback sockets that get the same bytes at a steady rate, by a
 * loop of send(2) and by IORING_OP_SEND, 200 a submission, with registered files, in turns of 3 s.
 *
 *   cc -O2 docs/bench/io_uring.c -luring -o io_uring && ./io_uring 240 50     (liburing-dev; bytes, rounds a second)
 *
 * The writer runs on core 0, who reads on core 1. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SOCKETS = 1000, SUBMISSION = 200, TURNS = 6, SECONDS = 3, READ_BYTES = 1 << 19 };

static double seconds(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void check(int failed, const char *what) {
    if (failed) {
        perror(what);
        exit(1);
    }
}

static void pin(int core) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    check(sched_setaffinity(0, sizeof cores, &cores), "run on one core");
}

static void read_all(struct sockaddr_in address) {
    pin(1);
    int poll = epoll_create1(0);
    char *buffer = malloc(READ_BYTES);
    for (int i = 0; i < SOCKETS; i++) {
        int socket_ = socket(AF_INET, SOCK_STREAM, 0);
        check(connect(socket_, (void *)&address, sizeof address), "connect");
        fcntl(socket_, F_SETFL, O_NONBLOCK);
        struct epoll_event event = {EPOLLIN | EPOLLET, {.fd = socket_}};
        epoll_ctl(poll, EPOLL_CTL_ADD, socket_, &event);
    }
    struct epoll_event events[256];
    for (;;) {
        int ready = epoll_wait(poll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            ssize_t taken;
            while ((taken = read(events[i].data.fd, buffer, READ_BYTES)) == READ_BYTES) {}
            if (taken == 0) exit(0);
        }
    }
}

static int by_send(const int *sockets, const char *bytes, size_t length) {
    int short_ = 0;
    for (int i = 0; i < SOCKETS; i++)
        short_ += send(sockets[i], bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)length;
    return short_;
}

static int by_ring(struct io_uring *ring, const char *bytes, size_t length) {
    int short_ = 0;
    for (int first = 0; first < SOCKETS; first += SUBMISSION) {
        for (int i = first; i < first + SUBMISSION; i++) {
            struct io_uring_sqe *entry = io_uring_get_sqe(ring);
            io_uring_prep_send(entry, i, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
            entry->flags |= IOSQE_FIXED_FILE;
        }
        io_uring_submit_and_wait(ring, SUBMISSION);
        struct io_uring_cqe *entry;
        unsigned head, seen = 0;
        io_uring_for_each_cqe(ring, head, entry) {
            short_ += entry->res != (int)length;
            seen++;
        }
        io_uring_cq_advance(ring, seen);
    }
    return short_;
}

int main(int count, char **arguments) {
    size_t length = count > 1 ? strtoul(arguments[1], NULL, 10) : 240;
    int rate = count > 2 ? atoi(arguments[2]) : 50;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    check(bind(listener, (void *)&address, sizeof address) || listen(listener, 4096), "listen");
    getsockname(listener, (void *)&address, &size);
    pid_t reader = fork();
    if (reader == 0) read_all(address);
    pin(0);
    int sockets[SOCKETS], one = 1;
    for (int i = 0; i < SOCKETS; i++) {
        sockets[i] = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        setsockopt(sockets[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    char *bytes = memset(malloc(length), 'x', length);
    struct io_uring ring;
    struct io_uring_params how = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    errno = -io_uring_queue_init_params(256, &ring, &how);
    check(errno, "set up io_uring");
    errno = -io_uring_register_files(&ring, sockets, SOCKETS);
    check(errno, "register the sockets");
    for (int turn = 0; turn < TURNS; turn++) {
        double began = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID), next = began;
        int rounds = 0, short_ = 0;
        while (seconds(CLOCK_MONOTONIC) - began < SECONDS) {
            short_ += turn % 2 ? by_ring(&ring, bytes, length) : by_send(sockets, bytes, length);
            rounds++;
            next += 1.0 / rate;
            double wait = next - seconds(CLOCK_MONOTONIC);
            if (wait > 0) usleep(wait * 1e6);
        }
        cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        printf("%-8s %zu B, %d rounds/s: %.2f us a send, %d not whole\n", turn % 2 ? "io_uring" : "send", length,
               rate, cpu * 1e6 / rounds / SOCKETS, short_);
    }
    kill(reader, SIGKILL);
}
