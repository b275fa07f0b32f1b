# Parquet is read by pyarrow in this process and handed over as an Arrow C stream: no copy in between, and dates,
# times, text and categories arrive as R's own types.

#' Names of what can be read.
views <- function() unlist(reticulate::import("bulle")$views())

#' Read a view into a data frame.
#' @param name as views() lists it ("dataset" or "dataset/table"), or a path
#' @param columns names of the columns to read; all by default
read_view <- function(name, columns = NULL) {
  if (!is.character(name) || length(name) != 1L || is.na(name)) {
    stop("name must be the name of one view; views are: ", toString(views()), call. = FALSE)
  }
  stream <- nanoarrow::nanoarrow_allocate_array_stream()
  tryCatch(
    {
      path <- as.character(reticulate::import("bulle")$view_path(name))
      address <- nanoarrow::nanoarrow_pointer_addr_chr(stream)
      levels <- reticulate::import("bulle_arrow")$export(path, columns, address)
    },
    python.builtin.Exception = function(e) {
      stop(sub("\nRun .*", "", sub("^[A-Za-z]+(Error|Invalid): ", "", conditionMessage(e))), call. = FALSE)
    }
  )
  frame <- as.data.frame(stream)
  for (column in names(levels)) {
    frame[[column]] <- factor(frame[[column]], levels = unlist(levels[[column]]))
  }
  frame
}
