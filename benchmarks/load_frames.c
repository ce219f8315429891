// Load on a gRPC server over one thread: unary calls that rotate over many ready requests, so that no request is hot.
//
//   load_frames PORT CONNECTIONS STREAMS REQUESTS FILE
//
// FILE holds, again and again: a 4-byte length and a request's HEADERS payload, and a 4-byte length and its DATA payload. Prints JSON: how many
// were answered, bytes of DATA, seconds, and the microseconds of every 100th of the sorted latencies. A call that ends without DATA has failed.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { DATA = 0, HEADERS = 1, RESET = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW = 8, FRAME = 9, ROOM = 1 << 22, SLOTS = 1 << 12 };

typedef struct { uint8_t *headers, *data; uint32_t headers_size, data_size; } Request;
typedef struct {
  int fd; uint32_t next; int open; size_t have, unsent; uint64_t taken;
  uint8_t in[ROOM], out[ROOM];
  uint64_t began[SLOTS]; uint32_t body[SLOTS];
} Connection;

static Request *requests; static int request_count;
static long wanted, begun, answered, failed; static uint64_t body_bytes;
static uint32_t *latencies;

static void fail(const char *what) { fprintf(stderr, "%s: %s\n", what, strerror(errno)); exit(1); }
static uint64_t nanoseconds(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static uint32_t read32(const uint8_t *at) { return (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3]; }

static void frame(Connection *c, uint32_t size, uint8_t kind, uint8_t flags, uint32_t stream, const uint8_t *payload) {
  if (c->unsent + FRAME + size > ROOM) fail("too much unsent");
  uint8_t *to = c->out + c->unsent;
  to[0] = size >> 16; to[1] = size >> 8; to[2] = size; to[3] = kind; to[4] = flags;
  to[5] = stream >> 24; to[6] = stream >> 16; to[7] = stream >> 8; to[8] = stream;
  memcpy(to + FRAME, payload, size);
  c->unsent += FRAME + size;
}

static void begin(Connection *c) {
  Request *r = &requests[begun++ % request_count];
  uint32_t stream = c->next; c->next += 2; c->open++;
  c->began[stream / 2 % SLOTS] = nanoseconds(); c->body[stream / 2 % SLOTS] = 0;
  frame(c, r->headers_size, HEADERS, 4, stream, r->headers);
  frame(c, r->data_size, DATA, 1, stream, r->data);
}

static void give_room(Connection *c) {
  if (c->taken < 1 << 20) return;
  uint8_t size[4] = {c->taken >> 24, c->taken >> 16, c->taken >> 8, c->taken};
  frame(c, 4, WINDOW, 0, 0, size);
  c->taken = 0;
}

static void end(Connection *c, uint32_t stream, int good) {
  uint64_t took = (nanoseconds() - c->began[stream / 2 % SLOTS]) / 100;
  if (good && c->body[stream / 2 % SLOTS]) { latencies[answered++] = took; body_bytes += c->body[stream / 2 % SLOTS]; } else failed++;
  c->open--;
  if (begun < wanted) begin(c);
}

static void take(Connection *c) {
  size_t at = 0;
  while (c->have - at >= FRAME) {
    uint8_t *f = c->in + at; uint32_t size = f[0] << 16 | f[1] << 8 | f[2], stream = read32(f + 5) & 0x7fffffff;
    if (c->have - at < FRAME + size) break;
    if (f[3] == DATA) { c->body[stream / 2 % SLOTS] += size; c->taken += size; give_room(c); }
    if ((f[3] == DATA || f[3] == HEADERS) && f[4] & 1) end(c, stream, f[3] == HEADERS);
    if (f[3] == RESET) end(c, stream, 0);
    if (f[3] == SETTINGS && !(f[4] & 1)) frame(c, 0, SETTINGS, 1, 0, f);
    if (f[3] == PING && !(f[4] & 1)) frame(c, size, PING, 1, 0, f + FRAME);
    if (f[3] == GOAWAY) { fprintf(stderr, "GOAWAY %u\n", read32(f + FRAME + 4)); exit(1); }
    at += FRAME + size;
  }
  memmove(c->in, c->in + at, c->have -= at);
}

static void push(Connection *c) {
  ssize_t sent = send(c->fd, c->out, c->unsent, MSG_NOSIGNAL);
  if (sent < 0 && errno != EAGAIN) fail("send");
  if (sent > 0) memmove(c->out, c->out + sent, c->unsent -= sent);
}

static void pull(Connection *c) {
  ssize_t got = recv(c->fd, c->in + c->have, ROOM - c->have, 0);
  if (got == 0 || (got < 0 && errno != EAGAIN)) fail("recv");
  if (got > 0) { c->have += got; take(c); }
}

static Connection *connected(int port, int streams) {
  Connection *c = calloc(1, sizeof *c); int on = 1;
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(c->fd, (void *)&to, sizeof to)) fail("connect");
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
  c->next = 1; c->taken = (1 << 20);
  memcpy(c->out, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", c->unsent = 24);
  frame(c, 6, SETTINGS, 0, 0, (uint8_t[]){0, 4, 0x00, 0x10, 0, 0});
  frame(c, 4, WINDOW, 0, 0, (uint8_t[]){0x10, 0, 0, 0});
  c->taken = 0;
  for (int i = 0; i < streams && begun < wanted; i++) begin(c);
  return c;
}

static void load(const char *path) {
  FILE *file = fopen(path, "rb"); uint8_t size[4];
  if (!file) fail(path);
  requests = malloc(sizeof *requests * 4096);
  while (request_count < 4096 && fread(size, 4, 1, file) == 1) {
    Request *r = &requests[request_count++];
    r->headers = malloc(r->headers_size = read32(size));
    if (fread(r->headers, r->headers_size, 1, file) != 1 || fread(size, 4, 1, file) != 1) fail("requests");
    r->data = malloc(r->data_size = read32(size));
    if (fread(r->data, r->data_size, 1, file) != 1) fail("requests");
  }
}

static int ascending(const void *a, const void *b) { return (*(uint32_t *)a > *(uint32_t *)b) - (*(uint32_t *)a < *(uint32_t *)b); }

int main(int count, char **arguments) {
  if (count != 6) { fprintf(stderr, "usage: load_frames PORT CONNECTIONS STREAMS REQUESTS FILE\n"); return 2; }
  int connections = atoi(arguments[2]); wanted = atol(arguments[4]); load(arguments[5]);
  latencies = malloc(sizeof *latencies * wanted);
  Connection *all[connections]; struct pollfd waits[connections];
  uint64_t start = nanoseconds();
  for (int i = 0; i < connections; i++) all[i] = connected(atoi(arguments[1]), atoi(arguments[3]));
  while (answered + failed < wanted) {
    for (int i = 0; i < connections; i++) {
      if (all[i]->unsent) push(all[i]);
      waits[i] = (struct pollfd){all[i]->fd, POLLIN | (all[i]->unsent ? POLLOUT : 0), 0};
    }
    if (poll(waits, connections, 10000) <= 0) fail("poll");
    for (int i = 0; i < connections; i++) if (waits[i].revents & ~POLLOUT) pull(all[i]);
  }
  double seconds = (nanoseconds() - start) / 1e9;
  qsort(latencies, answered, sizeof *latencies, ascending);
  printf("{\"answered\": %ld, \"failed\": %ld, \"body_bytes\": %llu, \"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
         answered, failed, (unsigned long long)body_bytes, seconds, answered ? latencies[answered / 2] / 10.0 : 0,
         answered ? latencies[answered * 99 / 100] / 10.0 : 0);
  return failed != 0;
}
