/* Steps over the strings of a GGUF's vocabulary, of which there are hundreds of thousands before each list of tensors.
 *
 * The same in Python, which says what it does, is proxy/catalog/strings.py.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <endian.h>
#include <stdint.h>
#include <string.h>

enum { LENGTH_BYTES = 8 };

static PyObject *skip_whole(PyObject *self, PyObject *args)
{
    Py_buffer buffer;
    Py_ssize_t used, count;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*nn:skip_whole", &buffer, &used, &count))
        return NULL;
    if (used < 0 || used > buffer.len) {
        PyBuffer_Release(&buffer);
        PyErr_SetString(PyExc_ValueError, "what is used is not within the buffer");
        return NULL;
    }
    const unsigned char *bytes = buffer.buf;
    while (count > 0 && buffer.len - used >= LENGTH_BYTES) {
        uint64_t length;
        memcpy(&length, bytes + used, LENGTH_BYTES);
        length = le64toh(length);
        /* Lengths are a stranger's: never added before they are known to fit. */
        if (length > (uint64_t)(buffer.len - used - LENGTH_BYTES))
            break;
        used += LENGTH_BYTES + (Py_ssize_t)length;
        count--;
    }
    PyBuffer_Release(&buffer);
    return Py_BuildValue("nn", used, count);
}

static PyMethodDef methods[] = {
    {"skip_whole", skip_whole, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_strings",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__strings(void)
{
    return PyModuleDef_Init(&module);
}
