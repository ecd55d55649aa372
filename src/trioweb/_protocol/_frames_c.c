/* RFC 6455 section 5, fast: masks payloads, and takes whole messages out of a chunk.
 *
 * Nothing here decides anything: it takes what is certainly right and leaves everything else where
 * it stands.  It is optional: where it was not built, `_frames_python.py` does the same, byte for
 * byte and error for error, and tests hold each to the other.
 *
 * Only the stable ABI is used, so that what was built once serves every Python from 3.11 on
 * (setup.py defines Py_LIMITED_API).  There is no state at all.
 */

#include <Python.h>

#include <stdint.h>
#include <string.h>

/* The first byte of a message in one frame, and bits of the second. */
#define WHOLE_TEXT 0x81
#define WHOLE_BINARY 0x82
#define MASKED 0x80
#define KEY_BYTES 4

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
    if (key_size != KEY_BYTES) {
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

/* The message of *size* bytes at *payload*; *key* is NULL if they are not masked. */
static PyObject *
make_message(int is_text, const char *payload, Py_ssize_t size, const char *key)
{
    if (key == NULL) {
        return is_text ? PyUnicode_DecodeUTF8(payload, size, NULL)
                       : PyBytes_FromStringAndSize(payload, size);
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (bytes == NULL) {
        return NULL;
    }
    char *unmasked = PyBytes_AsString(bytes);
    xor_bytes(unmasked, payload, size, key);
    if (!is_text) {
        return bytes;
    }
    PyObject *text = PyUnicode_DecodeUTF8(unmasked, size, NULL);
    Py_DECREF(bytes);
    return text;
}

/* Append to a list, as `messages.append(message)` would; steals *message*. */
static int
append(PyObject *messages, PyObject *message)
{
    int failed;
    if (PyList_CheckExact(messages)) {
        failed = PyList_Append(messages, message);
    } else {
        PyObject *none = PyObject_CallMethod(messages, "append", "(O)", message);
        failed = none == NULL ? -1 : 0;
        Py_XDECREF(none);
    }
    Py_DECREF(message);
    return failed;
}

static PyObject *
take_messages(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 6) {
        return PyErr_Format(PyExc_TypeError, "take_messages() takes 6 arguments, not %zd", count);
    }
    char *data;
    Py_ssize_t end;
    if (PyBytes_AsStringAndSize(args[0], &data, &end) < 0) {
        return NULL;
    }
    Py_ssize_t position = PyNumber_AsSsize_t(args[1], PyExc_OverflowError);
    if (position == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (position < 0 || position > end) {
        return PyErr_Format(PyExc_ValueError, "position %zd of %zd bytes", position, end);
    }
    int masked = PyObject_IsTrue(args[2]);
    if (masked < 0) {
        return NULL;
    }
    /* A limit that is more than a size can be is as good as the most that it can. */
    Py_ssize_t max_message_bytes = PyNumber_AsSsize_t(args[3], NULL);
    if (max_message_bytes == -1 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *work = args[4];
    PyObject *messages = args[5];
    if (!PyIter_Check(work) || !PyList_Check(messages)) {
        PyErr_SetString(PyExc_TypeError, "work must be an iterator, and messages a list");
        return NULL;
    }

    for (;;) {
        /* NOTE: Sizes are compared with what is left, never added to a position first, so that
         * nothing can overflow. */
        const unsigned char *frame = (const unsigned char *)data + position;
        Py_ssize_t left = end - position;
        Py_ssize_t head = masked ? 2 + KEY_BYTES : 2;
        if (left < head || (frame[0] != WHOLE_TEXT && frame[0] != WHOLE_BINARY)) {
            break;
        }
        /* With the expected mask bit this is the length, otherwise it is 128 more. */
        Py_ssize_t size = frame[1] ^ (masked ? MASKED : 0);
        if (size == 126) {
            head += 2;
            if (left < head) {
                break;
            }
            size = (Py_ssize_t)frame[2] << 8 | frame[3];
            if (size < 126) {
                break;
            }
        } else if (size > 126) {
            break;
        }
        if (size > left - head || size > max_message_bytes) {
            break;
        }
        PyObject *unit = PyIter_Next(work);
        if (unit == NULL) {
            if (PyErr_Occurred()) {
                return NULL;
            }
            break;
        }
        Py_DECREF(unit);
        const char *payload = data + position + head;
        PyObject *message =
            make_message(frame[0] == WHOLE_TEXT, payload, size, masked ? payload - KEY_BYTES : NULL);
        if (message == NULL || append(messages, message) < 0) {
            return NULL;
        }
        position += head + size;
    }
    return PyLong_FromSsize_t(position);
}

#define FASTCALL(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL

static PyMethodDef methods[] = {
    {"mask", FASTCALL(mask),
     "mask(data, key, /)\n--\n\nReturn *data* masked, or unmasked, with the four bytes of *key*."},
    {"take_messages", FASTCALL(take_messages),
     "take_messages(data, position, masked, max_message_bytes, work, messages, /)\n--\n\n"
     "Append the messages that stand whole at *position*; return where they end."},
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
    .m_name = "trioweb._protocol._frames_c",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__frames_c(void)
{
    /* 3.11 refuses a slot that it does not know. */
    if (Py_Version < 0x030c0000) {
        definition.m_slots = slots + 1;
    }
    return PyModuleDef_Init(&definition);
}
