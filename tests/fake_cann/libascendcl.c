/* A stand-in for CANN's C library, on which the real torch_npu runs where there is neither CANN nor an NPU.
 *
 * Device memory is the host's, so that copies are right; kernels do nothing, so that what operators compute is not.
 * Events tell the host's time. It stands in for libacl_op_compiler.so, libge_runner.so and libgraph.so as well.
 *
 * From the environment:
 *   FAKE_CANN_SOC      name of the chip, as aclrtGetSocName tells it
 *   FAKE_CANN_DEVICES  number of devices; 1 unless told
 *   FAKE_CANN_MEMORY   MiB of memory of a device; 65536 unless told
 *
 * Functions are declared after the headers that torch_npu's wheel brings in include/acl.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, OUT_OF_MEMORY = 207001 };

static long long number(const char *variable, long long otherwise) {
    const char *text = getenv(variable);
    return text ? atoll(text) : otherwise;
}

/* The device */

static size_t memory_in_use;

static size_t total_memory(void) { return (size_t)number("FAKE_CANN_MEMORY", 65536) << 20; }

const char *aclrtGetSocName(void) { return getenv("FAKE_CANN_SOC"); }

int aclrtGetDeviceCount(uint32_t *count) {
    *count = (uint32_t)number("FAKE_CANN_DEVICES", 1);
    return SUCCESS;
}

int aclrtGetDevice(int32_t *device) {
    *device = 0;
    return SUCCESS;
}

/* Numbers of cores, for every kind that is asked for. */
int aclGetDeviceCapability(uint32_t device, int kind, int64_t *value) {
    *value = 20;
    return SUCCESS;
}

int aclrtGetMemInfo(int kind, size_t *free_memory, size_t *total) {
    *total = total_memory();
    *free_memory = *total - memory_in_use;
    return SUCCESS;
}

const char *aclGetRecentErrMsg(void) { return ""; }

int aclsysGetVersionStr(char *package, char *version) {
    strcpy(version, "9.1.0");
    return SUCCESS;
}

/* Begins with its text in full; the parts after it are not used. */
int aclsysGetCANNVersion(int package, char *version) {
    strcpy(version, "9.1.0");
    return SUCCESS;
}

/* Memory: its size stands in a page before what the caller gets */

enum { PAGE = 4096 };

int aclrtMalloc(void **pointer, size_t size, int policy) {
    size_t whole = (size + 2 * PAGE - 1) / PAGE * PAGE;
    if (memory_in_use + size > total_memory()) return OUT_OF_MEMORY;
    char *begin = aligned_alloc(PAGE, whole);
    if (!begin) return OUT_OF_MEMORY;
    *(size_t *)begin = size;
    memory_in_use += size;
    *pointer = begin + PAGE;
    return SUCCESS;
}

int aclrtFree(void *pointer) {
    char *begin = (char *)pointer - PAGE;
    memory_in_use -= *(size_t *)begin;
    free(begin);
    return SUCCESS;
}

int aclrtMallocAlign32(void **pointer, size_t size, int policy) { return aclrtMalloc(pointer, size, policy); }

int aclrtMallocHost(void **pointer, size_t size) {
    *pointer = aligned_alloc(PAGE, (size + PAGE - 1) / PAGE * PAGE);
    return *pointer ? SUCCESS : OUT_OF_MEMORY;
}

int aclrtFreeHost(void *pointer) {
    free(pointer);
    return SUCCESS;
}

int aclrtMemcpy(void *to, size_t room, const void *from, size_t size, int direction) {
    memcpy(to, from, size);
    return SUCCESS;
}

int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t size, int direction, void *stream) {
    memcpy(to, from, size);
    return SUCCESS;
}

/* Streams and events: a stream is only told from others, an event is a moment */

static int create(void **object) {
    *object = calloc(1, sizeof(struct timespec));
    return *object ? SUCCESS : OUT_OF_MEMORY;
}

int aclrtCreateStream(void **stream) { return create(stream); }
int aclrtCreateStreamWithConfig(void **stream, uint32_t priority, uint32_t flags) { return create(stream); }
int aclrtCreateEventWithFlag(void **event, uint32_t flags) { return create(event); }
int aclrtCreateEventExWithFlag(void **event, uint32_t flags) { return create(event); }

int aclrtRecordEvent(void *event, void *stream) {
    clock_gettime(CLOCK_MONOTONIC, event);
    return SUCCESS;
}

int aclrtEventElapsedTime(float *milliseconds, const struct timespec *begin, const struct timespec *end) {
    *milliseconds = (end->tv_sec - begin->tv_sec) * 1e3f + (end->tv_nsec - begin->tv_nsec) / 1e6f;
    return SUCCESS;
}

int aclrtQueryEventStatus(void *event, int *status) {
    *status = 1; /* complete */
    return SUCCESS;
}

/* Options, all of them off */

int aclrtGetSysParamOpt(int option, int64_t *value) {
    *value = 0;
    return SUCCESS;
}

int aclrtCtxGetSysParamOpt(int option, int64_t *value) { return aclrtGetSysParamOpt(option, value); }

static const char disabled[] = "disable";

size_t aclGetCompileoptSize(int option) { return sizeof disabled; }

int aclGetCompileopt(int option, char *value, size_t size) {
    memcpy(value, disabled, sizeof disabled);
    return SUCCESS;
}

/* All else that torch_npu asks for succeeds, and does nothing */

#define SUCCEEDS(function) long function(void) { return SUCCESS; }

SUCCEEDS(aclInit) SUCCEEDS(aclFinalize) SUCCEEDS(aclAppLog) SUCCEEDS(aclSetCompileopt)
SUCCEEDS(aclmdlInitDump) SUCCEEDS(aclmdlSetDump) SUCCEEDS(aclmdlFinalizeDump)

SUCCEEDS(aclrtSetDevice) SUCCEEDS(aclrtResetDevice) SUCCEEDS(aclrtSetDeviceSatMode)
SUCCEEDS(aclrtGetCurrentContext) SUCCEEDS(aclrtSetCurrentContext) SUCCEEDS(aclrtDeviceGetBareTgid)
SUCCEEDS(aclrtDeviceCanAccessPeer) SUCCEEDS(aclrtDeviceEnablePeerAccess)
SUCCEEDS(aclrtSetSysParamOpt) SUCCEEDS(aclrtCtxSetSysParamOpt) SUCCEEDS(aclrtSetOpExecuteTimeOut)
SUCCEEDS(aclrtSynchronizeDeviceWithTimeout) SUCCEEDS(aclrtProcessReport)

SUCCEEDS(aclrtDestroyStream) SUCCEEDS(aclrtDestroyStreamForce) SUCCEEDS(aclrtSynchronizeStream)
SUCCEEDS(aclrtSynchronizeStreamWithTimeout) SUCCEEDS(aclrtStreamWaitEvent)
SUCCEEDS(aclrtDestroyEvent) SUCCEEDS(aclrtResetEvent) SUCCEEDS(aclrtSynchronizeEvent)

SUCCEEDS(aclrtMemset) SUCCEEDS(aclrtMallocPhysical) SUCCEEDS(aclrtFreePhysical)
SUCCEEDS(aclrtReserveMemAddress) SUCCEEDS(aclrtReleaseMemAddress) SUCCEEDS(aclrtMapMem) SUCCEEDS(aclrtUnmapMem)
SUCCEEDS(aclrtMemExportToShareableHandle) SUCCEEDS(aclrtMemImportFromShareableHandle)
SUCCEEDS(aclrtMemSetPidToShareableHandle)

SUCCEEDS(aclCreateTensorDesc) SUCCEEDS(aclDestroyTensorDesc) SUCCEEDS(aclGetTensorDescDimV2)
SUCCEEDS(aclGetTensorDescFormat) SUCCEEDS(aclGetTensorDescNumDims) SUCCEEDS(aclGetTensorDescType)
SUCCEEDS(aclSetTensorDescName) SUCCEEDS(aclSetTensorFormat) SUCCEEDS(aclSetTensorPlaceMent)
SUCCEEDS(aclSetTensorShape) SUCCEEDS(aclCreateDataBuffer) SUCCEEDS(aclDestroyDataBuffer)

SUCCEEDS(aclopCompileAndExecute) SUCCEEDS(aclopCreateAttr) SUCCEEDS(aclopDestroyAttr)
SUCCEEDS(aclopSetAttrBool) SUCCEEDS(aclopSetAttrDataType) SUCCEEDS(aclopSetAttrFloat)
SUCCEEDS(aclopSetAttrInt) SUCCEEDS(aclopSetAttrString) SUCCEEDS(aclopSetAttrListBool)
SUCCEEDS(aclopSetAttrListFloat) SUCCEEDS(aclopSetAttrListInt) SUCCEEDS(aclopSetAttrListListInt)

SUCCEEDS(aclrtBinaryGetFunction) SUCCEEDS(aclrtBinaryLoadFromData) SUCCEEDS(aclrtGetFunctionAddr)
SUCCEEDS(rtDevBinaryRegister) SUCCEEDS(rtFunctionRegister) SUCCEEDS(rtGetC2cCtrlAddr) SUCCEEDS(rtKernelLaunch)

SUCCEEDS(MsprofGetHashId) SUCCEEDS(MsprofRegisterCallback) SUCCEEDS(MsprofReportAdditionalInfo)
SUCCEEDS(MsprofReportApi) SUCCEEDS(MsprofReportCompactInfo) SUCCEEDS(MsprofSysCycleTime)
