#ifndef C_FRAMEWORK_H
#define C_FRAMEWORK_H

/* A tensor framework in C, which knows nothing of fsdpinit. */

#include <mpi.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

// [api]
typedef enum cf_place { CF_HOST, CF_DEVICE } cf_place;

typedef struct cf_tensor {
  const char* name;
  uint64_t rows;                /* of the part that this process has */
  uint64_t columns;             /* float32 each */
  void* data;                   /* NULL: no memory yet */
  void (*release)(void* owner); /* what cf_tensor_free calls, with `owner` */
  void* owner;
} cf_tensor;

typedef struct cf_model {
  cf_tensor* tensors;
  size_t count;
  cf_place place; /* where tensors live: known at run time */
  MPI_Comm comm;  /* the processes that share this model */
} cf_model;
// [api]

static size_t cf_blocks = 0; /* allocated and not yet freed */

/* At a multiple of 256 bytes; NULL if there is no memory. */
static inline void* cf_alloc(cf_place place, size_t bytes) {
  (void)place; /* a real one would ask the device's runtime */
  void* const address = aligned_alloc(256, (bytes + 255) / 256 * 256);
  cf_blocks += address != NULL;
  return address;
}
static inline void cf_free(cf_place place, void* address) {
  (void)place;
  free(address);
  cf_blocks -= address != NULL;
}
/* From any place to any other. */
static inline void cf_copy(void* to, const void* from, size_t bytes) { memcpy(to, from, bytes); }

static inline void cf_tensor_free(cf_tensor* tensor) {
  if (tensor->release != NULL) {
    tensor->release(tensor->owner);
  }
  tensor->data = NULL;
  tensor->release = NULL;
  tensor->owner = NULL;
}

#ifdef __cplusplus
}
#endif

#endif
