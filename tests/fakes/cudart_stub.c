/* A libcudart on host memory, in C: what edge_fusion.runtime.cuda calls, and checks of how.
 *
 * Handles are real 64-bit pointers, so that a prototype which cuts one short crashes or is refused;
 * every flag, kind and mode must be the one that is meant.  stub_* steer and question it.
 */
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 1, MEMORY = 2, INVALID_POINTER = 17, MISUSE = 999 };

typedef struct { void *address; size_t size; int is_host, is_mapped; } block_t;
typedef struct { void *to; const void *from; size_t size; } copy_t;
typedef struct { copy_t copies[16]; int count; } graph_t;
typedef struct { graph_t *capture; } stream_t;

static block_t blocks[64];
static int live, last_error, driver = 12060, devices = 1, integrated = 1, fail_code;
static char fail_name[64];

void stub_fail(const char *name, int code) { strncpy(fail_name, name, 63); fail_code = code; }
void stub_machine(int driver_version, int count, int is_integrated) {
  driver = driver_version, devices = count, integrated = is_integrated;
}
int stub_live(void) { return live; }
void *stub_only(void) { /* the first block that is not freed */
  for (int i = 0; i < 64; i++)
    if (blocks[i].address) return blocks[i].address;
  return NULL;
}
int stub_last_error(void) { return last_error; }

static int done(int code) { return last_error = code ? code : last_error, code; }
#define ENTER if (!strcmp(fail_name, __func__)) return done(fail_code)

static block_t *owner(const void *address, size_t size) {
  for (int i = 0; i < 64; i++) {
    char *start = blocks[i].address;
    if (start && start <= (char *)address && (char *)address + size <= start + blocks[i].size)
      return &blocks[i];
  }
  return NULL;
}

static int allocate(void **out, size_t size, int is_host, int is_mapped) {
  if (size > (size_t)1 << 30) return done(MEMORY);
  for (int i = 0; i < 64; i++)
    if (!blocks[i].address) {
      blocks[i] = (block_t){*out = malloc(size), size, is_host, is_mapped};
      live++;
      return OK;
    }
  return done(MEMORY);
}

static int release(void *address, int is_host) {
  block_t *block = owner(address, 0);
  if (!block || block->address != address || block->is_host != is_host) return done(INVALID_POINTER);
  free(address);
  block->address = NULL;
  live--;
  return OK;
}

const char *cudaGetErrorString(int code) {
  switch (code) {
    case MEMORY: return "out of memory";
    case 35: return "CUDA driver version is insufficient for CUDA runtime version";
    case 100: return "no CUDA-capable device is detected";
    case 901: return "operation failed due to a previous error during capture";
    default: return "stub error";
  }
}
int cudaGetLastError(void) { int code = last_error; last_error = OK; return code; }
int cudaRuntimeGetVersion(int *out) { ENTER; *out = 12060; return OK; }
int cudaDriverGetVersion(int *out) { ENTER; *out = driver; return OK; }
int cudaGetDeviceCount(int *out) {
  ENTER;
  if (driver < 12000) return done(35);
  *out = devices;
  return devices ? OK : done(100);
}
int cudaGetDevice(int *out) { ENTER; *out = 3; return OK; }
int cudaDeviceGetAttribute(int *out, int attribute, int device) {
  ENTER;
  if (device != 3) return done(MISUSE);
  switch (attribute) {
    case 16: *out = 8; return OK;
    case 18: *out = integrated; return OK;
    case 75: *out = 8; return OK;
    case 76: *out = 7; return OK;
    default: return done(INVALID);
  }
}
int cudaGetDeviceProperties(void *out, int device) {
  ENTER;
  if (device != 3) return done(MISUSE);
  memset(out, 0xff, 1032); /* as large as the structure of CUDA 12 */
  strcpy(out, "Orin");
  return OK;
}
int cudaMemGetInfo(size_t *available, size_t *total) {
  ENTER;
  *available = (size_t)5 << 30, *total = (size_t)8 << 30;
  return OK;
}
int cudaMalloc(void **out, size_t size) { ENTER; return allocate(out, size, 0, 0); }
int cudaFree(void *address) { ENTER; return release(address, 0); }
int cudaHostAlloc(void **out, size_t size, unsigned flags) {
  ENTER;
  return flags & ~2u ? done(INVALID) : allocate(out, size, 1, flags == 2);
}
int cudaHostGetDevicePointer(void **out, void *host, unsigned flags) {
  ENTER;
  block_t *block = owner(host, 0);
  if (!block || !block->is_mapped || flags) return done(INVALID);
  *out = host;
  return OK;
}
int cudaFreeHost(void *address) { ENTER; return release(address, 1); }
int cudaStreamCreateWithFlags(void **out, unsigned flags) {
  ENTER;
  if (flags != 1) return done(INVALID);
  *out = calloc(1, sizeof(stream_t));
  live++;
  return OK;
}
int cudaStreamSynchronize(stream_t *stream) { ENTER; return stream->capture ? done(900) : OK; }
int cudaStreamDestroy(stream_t *stream) { ENTER; free(stream); live--; return OK; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, stream_t *stream) {
  ENTER;
  block_t *target = owner(to, size), *source = owner(from, size);
  if (!target || !source) return done(INVALID);
  if (source->is_host != (kind == 1) || target->is_host != (kind == 2)) return done(MISUSE);
  if (stream->capture)
    stream->capture->copies[stream->capture->count++] = (copy_t){to, from, size};
  else
    memcpy(to, from, size);
  return OK;
}
int cudaStreamBeginCapture(stream_t *stream, int mode) {
  ENTER;
  if (mode != 1 || stream->capture) return done(INVALID);
  stream->capture = calloc(1, sizeof(graph_t));
  live++;
  return OK;
}
int cudaStreamEndCapture(stream_t *stream, graph_t **out) {
  if (!stream->capture) return done(INVALID);
  *out = stream->capture;
  stream->capture = NULL;
  if (!strcmp(fail_name, __func__)) {
    free(*out);
    *out = NULL;
    live--;
    return done(fail_code);
  }
  return OK;
}
int cudaGraphInstantiateWithFlags(graph_t **out, graph_t *graph, unsigned long long flags) {
  ENTER;
  if (flags) return done(INVALID);
  *out = malloc(sizeof(graph_t));
  **out = *graph;
  live++;
  return OK;
}
int cudaGraphDestroy(graph_t *graph) { ENTER; free(graph); live--; return OK; }
int cudaGraphLaunch(graph_t *graph, stream_t *stream) {
  ENTER;
  if (!stream || stream->capture) return done(INVALID);
  for (int i = 0; i < graph->count; i++)
    memcpy(graph->copies[i].to, graph->copies[i].from, graph->copies[i].size);
  return OK;
}
int cudaGraphExecDestroy(graph_t *graph) { ENTER; free(graph); live--; return OK; }
