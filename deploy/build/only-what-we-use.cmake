# Read by CMake right after llama-cpp-python's project() (CMAKE_PROJECT_llama_cpp_INCLUDE).
# llama.cpp builds every tool or none, and most of them are not ours to ship: leave the folders of those
# out of "all" and of "install", once all folders are known. Targets that others need are still built.
cmake_policy(SET CMP0057 NEW)

function(leave_out_unused_tools)
  set(tools "${CMAKE_SOURCE_DIR}/vendor/llama.cpp/tools")
  set(used fit-params llama-bench mtmd quantize rpc server ui)
  get_property(folders DIRECTORY "${tools}" PROPERTY SUBDIRECTORIES)
  foreach(folder IN LISTS folders)
    get_filename_component(name "${folder}" NAME)
    if(NOT name IN_LIST used)
      set_property(DIRECTORY "${folder}" PROPERTY EXCLUDE_FROM_ALL TRUE)
    endif()
  endforeach()
endfunction()

cmake_language(DEFER CALL leave_out_unused_tools)
