/* A CUDA driver for tests: its memory is the processor's, its kernels do nothing. FAIL_INIT is what
   its first call answers. */
#include <stdlib.h>
#define OK(name) int name(void) { return 0; }
int cuInit(unsigned f) { return FAIL_INIT; }
int cuGetErrorName(int e, const char **s) { *s = "CUDA_ERROR_FAKE"; return 0; }
int cuGetErrorString(int e, const char **s) { *s = "the fake driver sleeps"; return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGet(int *d, int n) { *d = n; return n ? 101 : 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = 8; return 0; }
int cuDeviceComputeCapability(int *a, int *b, int d) { *a = 8; *b = 6; return 0; }
int cuCtxCreate_v2(void **c, unsigned f, int d) { *c = malloc(1); return 0; }
int cuCtxPopCurrent_v2(void **c) { if (c) *c = 0; return 0; }
int cuMemAlloc_v2(void **p, size_t n) { *p = malloc(n); return 0; }
int cuMemAllocPitch_v2(void **p, size_t *s, size_t w, size_t h, unsigned e) { *s = w; *p = malloc(w * h); return 0; }
int cuMemFree_v2(void *p) { free(p); return 0; }
OK(cuDeviceGetName)
OK(cuDeviceGetUuid)
OK(cuCtxSetLimit)
OK(cuCtxPushCurrent_v2)
OK(cuCtxDestroy_v2)
OK(cuMemAllocManaged)
OK(cuMemsetD8Async)
OK(cuMemcpy)
OK(cuMemcpyAsync)
OK(cuMemcpy2D_v2)
OK(cuMemcpy2DAsync_v2)
OK(cuMemcpyHtoD_v2)
OK(cuMemcpyHtoDAsync_v2)
OK(cuMemcpyDtoH_v2)
OK(cuMemcpyDtoHAsync_v2)
OK(cuMemcpyDtoD_v2)
OK(cuMemcpyDtoDAsync_v2)
OK(cuCtxGetDevice)
OK(cuDevicePrimaryCtxRetain)
OK(cuDevicePrimaryCtxRelease)
OK(cuDevicePrimaryCtxSetFlags)
OK(cuDevicePrimaryCtxGetState)
OK(cuDevicePrimaryCtxReset)
OK(cuStreamCreate)
OK(cuStreamQuery)
OK(cuStreamSynchronize)
OK(cuStreamDestroy_v2)
OK(cuStreamAddCallback)
OK(cuStreamWaitEvent)
OK(cuEventCreate)
OK(cuEventDestroy_v2)
OK(cuEventSynchronize)
OK(cuEventQuery)
OK(cuEventRecord)
OK(cuLaunchKernel)
OK(cuLinkCreate)
OK(cuLinkAddData)
OK(cuLinkComplete)
OK(cuLinkDestroy)
OK(cuModuleLoadData)
OK(cuModuleUnload)
OK(cuModuleGetFunction)
OK(cuModuleGetGlobal)
OK(cuTexObjectCreate)
OK(cuTexObjectDestroy)
OK(cuGLGetDevices_v2)
OK(cuGraphicsGLRegisterImage)
OK(cuGraphicsUnregisterResource)
OK(cuGraphicsMapResources)
OK(cuGraphicsUnmapResources)
OK(cuGraphicsSubResourceGetMappedArray)
OK(cuGraphicsResourceGetMappedPointer_v2)
OK(cuImportExternalMemory)
OK(cuDestroyExternalMemory)
OK(cuExternalMemoryGetMappedBuffer)
OK(cuExternalMemoryGetMappedMipmappedArray)
OK(cuMipmappedArrayDestroy)
OK(cuMipmappedArrayGetLevel)
OK(cuImportExternalSemaphore)
OK(cuDestroyExternalSemaphore)
OK(cuSignalExternalSemaphoresAsync)
OK(cuWaitExternalSemaphoresAsync)
OK(cuArrayCreate_v2)
OK(cuArray3DCreate_v2)
OK(cuArrayDestroy)
