/* RFC 6455 section 5.3, fast: masks and unmasks payloads, a word at a time.
 *
 * The standard library has no XOR of bytes, and every way round it in pure Python takes more than
 * a nanosecond for each byte, thirty times what this takes.  It is optional: where it was not
 * built, `_mask_python.py` does the same.
 *
 * The only thing here is that XOR; what a frame is, `_frames` knows.  Only the stable ABI is used,
 * so that what was built once serves every Python from 3.11 on (setup.py defines Py_LIMITED_API).
 */

#include <Python.h>

#include <stdint.h>
#include <string.h>

static void
xor_bytes(char *to, const char *from, Py_ssize_t size, const char *key)
{
    /* Both halves are the key, so the order of bytes does not matter.  memcpy, which compilers
     * turn into plain loads and stores, because nothing says that the data is aligned. */
    uint64_t keys;
    memcpy(&keys, key, 4);
    memcpy((char *)&keys + 4, key, 4);
    Py_ssize_t i = 0;
    for (; size - i >= 8; i += 8) {
        uint64_t word;
        memcpy(&word, from + i, 8);
        word ^= keys;
        memcpy(to + i, &word, 8);
    }
    for (; i < size; i++) {
        to[i] = from[i] ^ key[i & 3];
    }
}

static PyObject *
mask(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "mask() takes 2 arguments, not %zd", count);
    }
    char *key;
    Py_ssize_t key_size;
    if (PyBytes_AsStringAndSize(args[1], &key, &key_size) < 0) {
        return NULL;
    }
    if (key_size != 4) {
        return PyErr_Format(PyExc_ValueError, "key of %zd bytes: must be 4", key_size);
    }
    Py_buffer data;
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *masked = PyBytes_FromStringAndSize(NULL, data.len);
    if (masked != NULL) {
        xor_bytes(PyBytes_AsString(masked), data.buf, data.len, key);
    }
    PyBuffer_Release(&data);
    return masked;
}

static PyMethodDef methods[] = {
    {"mask", (PyCFunction)(void (*)(void))mask, METH_FASTCALL,
     "mask(data, key, /)\n--\n\nReturn *data* masked, or unmasked, with the four bytes of *key*."},
    {NULL, NULL, 0, NULL},
};

/* The stable ABI of 3.11 does not name what came with 3.12, though it is the same for all since. */
#ifndef Py_mod_multiple_interpreters
#define Py_mod_multiple_interpreters 3
#define Py_MOD_PER_INTERPRETER_GIL_SUPPORTED ((void *)2)
#endif

/* There is no state, which threads or interpreters could share. */
static PyModuleDef_Slot slots[] = {
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "trioweb._protocol._mask_c",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__mask_c(void)
{
    /* 3.11 refuses a slot that it does not know. */
    if (Py_Version < 0x030c0000) {
        definition.m_slots = slots + 1;
    }
    return PyModuleDef_Init(&definition);
}
